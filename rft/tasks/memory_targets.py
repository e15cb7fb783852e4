"""Memory targets: what a memory should contain after each message of a history. Used for the cold start and
in reports.

They come from the file `memory_targets.jsonl` of the dataset folder if it has one, as simulated datasets do,
otherwise from the labels of the split's questions, if the task knows how. Prompts never contain memory
targets.
"""

import json
from dataclasses import dataclass

from rft.data.question import Question
from rft.errors import DataError
from rft.memory.text import join
from rft.tasks.base import Split
from rft.tasks.load import task_named

MEMORY_TARGETS = "memory_targets.jsonl"


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


NONE = MemoryTargets((), ())


def about(question: Question) -> str:
    """Returns the preference that a question is about, in the wording of `MemoryTarget.about`; "" if its task
    names none."""
    return task_named(question.task).about(question.labels)


def has_memory_targets(split: Split) -> bool:
    """Whether it is known what the memories of a split should contain."""
    return (split.root / MEMORY_TARGETS).is_file() or task_named(split.task).memory_targets is not None


def load_memory_targets(split: Split) -> dict[str, MemoryTargets]:
    """Loads the memory targets of a split, by history id; none at all if nothing tells them.

    Raises:
        DataError: the side file is broken, or a history of the split is missing from it.
    """
    if (split.root / MEMORY_TARGETS).is_file():
        return _from_side_file(split)
    from_labels = task_named(split.task).memory_targets
    return from_labels(split) if from_labels is not None else dict.fromkeys(split.histories, NONE)


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
