"""What memories should contain, from the labels of the questions: the snippet that reveals a preference is
looked up in the history."""

import json
import logging
from collections.abc import Sequence
from typing import Any

from rft.data.history import History, text_of
from rft.tasks.base import Split
from rft.tasks.memory_targets import MemoryTarget, MemoryTargets
from rft.tasks.personamem.dataset import SNIPPET, csv_path, read_rows
from rft.tasks.personamem.labels import about, judged

logger = logging.getLogger(__name__)

SAME_START = 60  # leading characters that identify a message even if the snippet is slightly rewritten


def memory_targets(split: Split) -> dict[str, MemoryTargets]:
    """Returns the memory targets of each history, by its id."""
    questions = {question.row: question for question in split.questions}
    targets: dict[str, list[MemoryTarget]] = {history: [] for history in split.histories}
    withdrawn: dict[str, list[str]] = {history: [] for history in split.histories}
    lost = 0
    for row, record in read_rows(csv_path(split.root, split.name), (SNIPPET,)):
        question = questions.get(row)
        if question is None:
            continue
        case, _ = judged(question)
        # empty: no preference, or anything is fine
        if case in ("others", "sensitive") or not about(question.labels):
            continue
        place = _place(record[SNIPPET], split.history_of(question))
        if place is None:
            lost += 1
            continue
        line = None if case in ("forget", "none") else f"{question.labels['preference'].rstrip('.')}."
        targets[question.history_id].append(MemoryTarget(place, about(question.labels), line))
        if question.labels["pref_type"] == "ask_to_forget":
            withdrawn[question.history_id].append(about(question.labels))
    if lost:
        logger.info(
            "%s: %d of %d questions refer to a snippet that is not in the history; they give no memory"
            " target",
            split.name,
            lost,
            len(questions),
        )
    return {
        history: MemoryTargets(tuple(sorted(notes, key=lambda note: note.message)), tuple(withdrawn[history]))
        for history, notes in targets.items()
    }


def _place(snippet: str, history: History) -> int | None:
    """Returns the index of the last message of the history that the snippet contains; None if it contains
    none."""
    try:
        evidence: Any = json.loads(snippet)
    except ValueError:
        return None
    if not isinstance(evidence, list):
        return None
    texts = [text_of(message.get("content")) for message in evidence if isinstance(message, dict)]
    contents = [message.content for message in history.messages]
    return max((place for text in texts if text for place in _same(text, contents)), default=None)


def _same(text: str, contents: Sequence[str]) -> list[int]:
    """Returns the index of a message (at most one): an exact match, otherwise one with the same beginning."""
    exact = [i for i, content in enumerate(contents) if content == text]
    if exact or len(text) < SAME_START:
        return exact[:1]
    return [i for i, content in enumerate(contents) if content[:SAME_START] == text[:SAME_START]][:1]
