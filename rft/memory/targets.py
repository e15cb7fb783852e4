"""Memory targets: what a memory should contain after each message of a history. Used for the cold start and
in reports.

They come from the simulator's side file if the dataset has one, otherwise from the labels of the split's own
questions: the snippet that reveals a preference is looked up in the history. Prompts never contain memory
targets.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reward.judge import case_and_fact
from rft.data.dataset import MEMORY_TARGETS, Split, csv_path, read_rows
from rft.data.history import History, text_of
from rft.data.question import Question
from rft.errors import DataError
from rft.memory.text import join

logger = logging.getLogger(__name__)

SNIPPET = "related_conversation_snippet"
SAME_START = 60  # leading characters that identify a message even if the snippet is slightly rewritten


@dataclass(frozen=True)
class MemoryTarget:
    """The line that a memory should contain about one preference, from one message of the history onward.

    Attributes:
        message: index of the message from which on the target applies.
        about: the preference as first revealed, such as "Enjoys listening to jazz"; see `about()` for that of
            a question.
        line: the line that the memory should contain (None: no line).
        written: what the model should write in the update, if it differs from the stored line: a line that
            ends in "forget it".
    """

    message: int
    about: str
    line: str | None
    written: str | None = None


@dataclass(frozen=True)
class MemoryTargets:
    """The memory targets of one history, in the order of its messages, and the phrases that the user asks to
    forget."""

    notes: tuple[MemoryTarget, ...]
    withdrawn: tuple[str, ...]

    def lines(self, last: int) -> dict[str, str]:
        """Returns {preference: line} after message `last`, in the order of first mention; a change keeps its
        place."""
        current: dict[str, str] = {}
        for note in self.notes:
            if note.message <= last and note.line is not None:
                current[note.about] = note.line
            elif note.message <= last:
                current.pop(note.about, None)
        return current

    def update(self, first: int, last: int) -> str:
        """Returns the text that the update which reads messages `first` to `last` should write."""
        now = {note.about: note.written for note in self.notes if first <= note.message <= last}
        return join([now.get(about) or line for about, line in self.lines(last).items()])

    def memory(self, last: int) -> str:
        """Returns the memory after message `last`."""
        return join(list(self.lines(last).values()))


def about(question: Question) -> str:
    """Returns the preference that a question is about, in the wording of `MemoryTarget.about`."""
    return question.labels.prev_pref or question.labels.preference


def load_memory_targets(split: Split) -> dict[str, MemoryTargets]:
    """Loads the memory targets of a split, by history id.

    Raises:
        DataError: the side file is broken, or a history of the split is missing from it.
    """
    path = split.root / MEMORY_TARGETS
    return _from_side_file(split) if path.is_file() else _from_labels(split)


def _from_side_file(split: Split) -> dict[str, MemoryTargets]:
    path = split.root / MEMORY_TARGETS
    by_file = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            notes = tuple(MemoryTarget(**note) for note in record["notes"])
            by_file[str(split.root / record["history"])] = MemoryTargets(notes, tuple(record["withdrawn"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: line {number}: not a valid record of memory targets ({error!r}); simulate the"
                " dataset again"
            ) from None
    for history in split.histories.values():
        if history.path not in by_file:
            raise DataError(
                f"{path}: no targets for {history.path}; simulate the dataset again, or remove the file"
            )
    return {history.id: by_file[history.path] for history in split.histories.values()}


def _from_labels(split: Split) -> dict[str, MemoryTargets]:
    questions = {question.row: question for question in split.questions}
    targets: dict[str, list[MemoryTarget]] = {history: [] for history in split.histories}
    withdrawn: dict[str, list[str]] = {history: [] for history in split.histories}
    lost = 0
    for row, record in read_rows(csv_path(split.root, split.name), (SNIPPET,)):
        question = questions.get(row)
        if question is None:
            continue
        case, _ = case_and_fact(**asdict(question.labels))
        # empty: no preference, or anything is fine
        if case in ("others", "sensitive") or not about(question):
            continue
        place = _place(record[SNIPPET], split.history_of(question))
        if place is None:
            lost += 1
            continue
        line = None if case in ("forget", "none") else f"{question.labels.preference.rstrip('.')}."
        targets[question.history_id].append(MemoryTarget(place, about(question), line))
        if question.labels.pref_type == "ask_to_forget":
            withdrawn[question.history_id].append(about(question))
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
    texts = (
        [text_of(m.get("content")) for m in evidence if isinstance(m, dict)]
        if isinstance(evidence, list)
        else []
    )
    places = [
        i for text in texts if text for i in _same(text, [message.content for message in history.messages])
    ]
    return max(places, default=None)


def _same(text: str, contents: Sequence[str]) -> list[int]:
    """Returns the index of a message (at most one): an exact match, otherwise one with the same beginning."""
    exact = [i for i, content in enumerate(contents) if content == text]
    if exact or len(text) < SAME_START:
        return exact[:1]
    return [i for i, content in enumerate(contents) if content[:SAME_START] == text[:SAME_START]][:1]
