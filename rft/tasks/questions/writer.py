"""Writes the questions about one history.

Invariant: the result depends only on (history, settings, responses of the LLM). Of the first N questions at
most N/4 have a gold that is the longest option, so this holds for every split too; with fewer than four
questions, there is none.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from rft.data.history import History, read_history
from rft.llm.chat import Chat
from rft.llm.client import Llm
from rft.llm.drafts import WORDS
from rft.llm.forms import Unusable
from rft.llm.journal import Journal
from rft.llm.settings import LlmSettings
from rft.memory.endpoint import Characters
from rft.tasks.dataset_writer import Dropped
from rft.tasks.questions.asking import Draft, write_question
from rft.tasks.questions.preferences import CHANGED, OTHERS, PLAIN, WITHDRAWN, Preference
from rft.tasks.questions.reading import find_preferences
from rft.tasks.questions.source import Source

RAREST_FIRST = (WITHDRAWN, CHANGED, OTHERS, PLAIN)


@dataclass(frozen=True)
class Settings:
    """What to write.

    Attributes:
        llm: the LLM.
        per_history: maximum questions per history.
        held_out: share of the people in the split benchmark.
        seed: seed of every draw.
    """

    llm: LlmSettings
    per_history: int = 25
    held_out: float = 0.1
    seed: int = 0


@dataclass
class Written:
    """What was written about one history.

    Attributes:
        source: the history.
        rows: questions, as rows of the dataset without the path of the history, in the order of the evidence.
        found: number of preferences by kind.
        dropped: what gave no question.
        rejected: number of responses that could not be used, by reason.
        paid: usage of the responses.
    """

    source: Source
    rows: list[dict[str, Any]] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)
    dropped: list[Dropped] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)


def write_about(source: Source, settings: Settings, llm: Llm, folder: Path) -> Written:
    """Writes the questions about one history; thread-safe.

    Args:
        source: the history.
        settings: what to write.
        llm: the LLM.
        folder: folder of the journals.

    Raises:
        ServerError: the LLM cannot be used.
    """
    history, written = read_history(source.path), Written(source)
    chat = Chat(llm, Journal(folder / f"{source.name}.jsonl"))
    written.rejected, written.paid = chat.rejected, chat.paid

    def drop(place: str, reason: str) -> None:
        written.dropped.append(Dropped(f"{source.place}: {place}", reason))

    preferences = find_preferences(history, chat, drop).all
    written.found.update(preference.kind for preference in preferences)
    if not preferences and not written.dropped:
        written.dropped.append(Dropped(source.place, "no preference was found in it"))
    ranks = _ranks(f"{settings.seed}-{source.name}")
    asked: list[tuple[int, dict[str, Any]]] = []
    for preference in _drawn(preferences, f"{settings.seed}-{source.name}"):
        place = f"message {preference.evidence[-1]}"
        if len(asked) == settings.per_history:
            drop(place, f"the history has {len(asked)} questions already (--per-history)")
            continue
        rank = ranks[len(asked) % len(ranks)]
        seed = f"{settings.seed}-{preference.kind}-{preference.topic}"
        try:
            draft = write_question(preference, history, chat, rank, seed)
        except Unusable as unusable:
            drop(place, str(unusable))
        else:
            asked.append((preference.evidence[-1], _row(source, history, preference, draft)))
    written.rows = [row for _, row in sorted(asked, key=lambda entry: entry[0])]
    return written


def _ranks(seed: str) -> list[int]:
    """The length ranks of successive golds. The longest is the last of four, the shortest the one before, so
    that no number of questions has too many of the longest."""
    middle = list(range(1, len(WORDS) - 1))
    Random(f"ranks-{seed}").shuffle(middle)
    return [*middle, 0, len(WORDS) - 1]


def _drawn(preferences: list[Preference], seed: str) -> list[Preference]:
    """The preferences in the order in which they are asked about: kinds by turns, the rarest first."""
    drawn = Random(f"order-{seed}").sample(preferences, len(preferences))
    turns: list[tuple[int, int, Preference]] = []
    for place, kind in enumerate(RAREST_FIRST):
        turns += [(turn, place, p) for turn, p in enumerate(p for p in drawn if p.kind == kind)]
    return [preference for _, _, preference in sorted(turns, key=lambda turn: turn[:2])]


def _row(source: Source, history: History, preference: Preference, draft: Draft) -> dict[str, Any]:
    later, tokens = history.messages[preference.evidence[-1] + 1 :], Characters()
    return {
        "person": source.person,
        "query": draft.query,
        "options": [draft.gold, *draft.distractors],
        "answer": draft.gold,
        "labels": {
            "kind": preference.kind,
            "topic": preference.topic,
            "preference": preference.text,
            "evidence": " ".join(map(str, preference.evidence)),
            "distance_messages": len(later),
            "distance_tokens": sum(tokens.message_tokens(m.role, m.content) for m in later),
        },
    }
