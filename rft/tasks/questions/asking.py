"""Writes the question about one preference, and lets judges vote on it.

Invariant: a question that is returned passed every rule of `rft.data.faults`, has a gold of the drawn length
rank and options of like length, and most judges agree on each of these: without the messages they miss the
gold; the gold alone uses the preference, or does not use it where it must not; with the messages, the gold is
right, and it is the only one that is.
"""

import re
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from rft.data.control import inert
from rft.data.faults import question_faults
from rft.data.history import History
from rft.llm.chat import Chat
from rft.llm.drafts import WORDS, Options, check_length, draw_words
from rft.llm.forms import Answer, Unusable
from rft.llm.votes import lettered, vote_blind, vote_uses
from rft.tasks.questions.preferences import OTHERS, Preference
from rft.tasks.questions.prompts import RIGHT, WRITE

LIKE = 3.0  # maximum ratio of the longest option to the shortest, in characters
AROUND = 1500
"""Characters of a message that judges see before and after the quoted words."""


class Right(Answer):
    letters: list[Literal["a", "b", "c", "d"]]


@dataclass(frozen=True)
class Draft:
    """A written question."""

    query: str
    gold: str
    distractors: list[str]


def write_question(preference: Preference, history: History, chat: Chat, rank: int, seed: str) -> Draft:
    """Returns a question about a preference.

    Args:
        preference: what it is about.
        history: the history that shows it.
        chat: the LLM.
        rank: length rank of the gold, as an index into WORDS.
        seed: distinguishes what is drawn for this question.

    Raises:
        Unusable: no draft passed; the message is the reason against the last one.
        ServerError: the LLM cannot be used.
    """

    def attempt_it(attempt: int) -> Draft:
        words = draw_words(Random(f"{seed}-{attempt}"), gold=WORDS[rank])
        given: dict[str, Any] = {
            "kind": "own" if preference.used else "generic",
            "topic": preference.topic,
            "preference": preference.text,
            "whose": "somebody else's" if preference.kind == OTHERS else "the user's",
            "before": preference.before,
            "words": {"gold": words[0], "distractors": words[1:]},
        }
        answer = chat.ask(Options, WRITE, given, attempt)
        draft = Draft(answer.query.strip(), answer.gold.strip(), [d.strip() for d in answer.distractors])
        stated = [preference.text, preference.before, *preference.quotes.values()]
        if faults := question_faults(draft, stated, preference.keyword, preference.used):
            raise Unusable(faults[0])
        lengths = [len(text) for text in (draft.gold, *draft.distractors)]
        if max(lengths) > LIKE * min(lengths):
            raise Unusable("the options are not of like length")
        check_length(draft, WORDS[rank])
        vote_blind(chat, draft, attempt)
        vote_uses(chat, draft, preference.text, preference.used, attempt)
        _vote_right(chat, draft, _shown(preference, history), attempt)
        return draft

    return chat.usable("question", attempt_it)


def _vote_right(chat: Chat, draft: Draft, messages: list[dict[str, Any]], attempt: int) -> None:
    """Raises Unusable unless most judges with the messages find the gold right, and most find only it
    right."""

    def judge(vote: int) -> tuple[set[str], str]:
        shown, gold = lettered(draft, f"right-{attempt}", vote)
        given = {"messages": messages, "query": draft.query, "answers": shown}
        return set(chat.ask(Right, RIGHT, given, vote).letters), gold

    judged, why = chat.votes(judge)
    chat.carried([gold in right for right, gold in judged], "the messages do not tell the right option", why)
    chat.carried([right <= {gold} for right, gold in judged], "more than one option is right", why)


def _shown(preference: Preference, history: History) -> list[dict[str, Any]]:
    """The messages about a preference, as judges see them; a long one only around its quoted words."""
    shown = []
    for index in preference.evidence:
        text, words = inert(history.messages[index].content), inert(preference.quotes[index]).split()
        quote = re.search(r"\s+".join(map(re.escape, words)), text)
        begin, finish = quote.span() if quote else (0, 0)
        start, end = max(0, begin - AROUND), finish + AROUND
        cut = ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")
        shown.append({"index": index, "text": cut})
    return shown
