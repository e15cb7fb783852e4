"""What every kind of dataset gives: a `Split` of questions with their histories, and a `Task`, the functions
that know its labels.

Invariant: nothing outside a task reads a label by its name. A task's functions depend on their arguments
only, so rows of old results are judged and grouped as when they were written.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rft.data.control import inert
from rft.data.history import History
from rft.data.question import Question
from rft.errors import DataError
from rft.records.row import ResultRow

ORDER_SEED = 42
"""The options of row N are shuffled by `random.Random(ORDER_SEED + N)`, the gold first, so that letters tell
nothing and are the same in every run."""
Asked = Question | ResultRow
Labels = Mapping[str, Any]
SHORT_OPTION = 8  # maximum words of an option that an answer names in full
UNNAMED = "The option that fits"
"""How an answer names an option for which there are no few words."""
MOST_VALUES = 30  # of a breakdown or label that is shown without being asked for


class UnusableRow(Exception):
    """The row cannot become a question; the message is the reason for skipping it."""


@dataclass(frozen=True)
class Skip:
    """A row that is not a question, and the reason."""

    row: int
    reason: str


@dataclass(frozen=True)
class Split:
    """The questions of one file, with their histories.

    Attributes:
        name: of the split.
        window: size of the histories; "" if the dataset has only one.
        questions: the usable rows, in the order of the file.
        histories: keyed by History.id.
        skipped: the other rows.
        sha256: hash of the file and of the histories that its questions use.
        root: the dataset folder.
        task: name of the task.
        report_by: the breakdowns that reports show; (): all that have at most `MOST_VALUES` values.
        published: figures to show next to a result: (name, metric, value from 0 to 1, source).
        notes: what a user of the dataset should know.
    """

    name: str
    window: str
    questions: tuple[Question, ...]
    histories: dict[str, History]
    skipped: tuple[Skip, ...]
    sha256: str
    root: Path
    task: str = "personamem"
    report_by: tuple[str, ...] = ()
    published: tuple[tuple[str, str, float, str], ...] = ()
    notes: tuple[str, ...] = ()

    def history_of(self, question: Question) -> History:
        """Returns the history of a question."""
        return self.histories[question.history_id]


class Shown(NamedTuple):
    """How a page shows the labels of a question: what it can be filtered by, a line about it, and facts."""

    kind: str
    about: str = ""
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """What a task finds in a split.

    Attributes:
        warnings: about the file.
        rows: {warning: the rows that it is about}.
        figures: more entries of the split's audit.
        tokens: length of each history as the dataset states it.
    """

    warnings: tuple[str, ...] = ()
    rows: Mapping[str, list[int]] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """The functions of one kind of dataset.

    Attributes:
        name: as in `Question.task`.
        groups: labels -> {name of a breakdown: value}; "kind" is `Question.kind`.
        titles: {name of a breakdown: title on a page}; others are titled by their name.
        shown: labels -> how a page shows them.
        crosses: {name of a breakdown that crosses two labels: the label without which it says nothing new}.
        judged: question -> (key of `reward.judge.RUBRICS` or a rubric in words, the fact that the judge is
            shown).
        reasoning: (question, knows) -> the thought of the completion that a cold start imitates. If the
            prompt has no history, `knows` is False. With options, it ends with "(x)", the gold letter.
        named: question -> how an answer names its right option.
        about: labels -> the preference that a question is about, as `MemoryTarget.about` has it; "" if none.
        counted: the labels that `rft data check` counts; (): all that have at most `MOST_VALUES` values.
        memory_targets: split -> {history id: `rft.tasks.memory_targets.MemoryTargets`}, if the labels tell
            what memories should contain.
        audit: split -> what `rft data check` reports about it beyond what every task has.
    """

    name: str
    groups: Callable[[Labels], dict[str, str]]
    shown: Callable[[Labels], Shown]
    judged: Callable[[Asked], tuple[str, str]]
    reasoning: Callable[[Question, bool], str]
    named: Callable[[Question], str]
    titles: Mapping[str, str] = field(default_factory=dict)
    crosses: Mapping[str, str] = field(default_factory=dict)
    counted: tuple[str, ...] = ()
    about: Callable[[Labels], str] = lambda labels: ""
    memory_targets: Callable[[Split], dict[str, Any]] | None = None
    audit: Callable[[Split], "Findings"] = lambda split: Findings()


def official_first(names: Collection[str]) -> list[str]:
    """Returns names of splits: train, val and benchmark first, then the others in alphabetical order."""
    official = [name for name in ("train", "val", "benchmark") if name in names]
    return official + sorted(set(names) - set(official))


def none_usable(path: Path, rows: int, skipped: Sequence[Skip]) -> DataError:
    """Returns the error for a file none of whose rows is a question."""
    reason, count = Counter(skip.reason for skip in skipped).most_common(1)[0]
    return DataError(f"{path}: no usable question in {rows} rows; most often ({count} times): {reason}")


def short_option(question: Question) -> str | None:
    """Returns the text of the right option, as an answer of a cold start names it; None if it is long."""
    text = inert(question.gold_text)
    return text.rstrip(".") if len(text.split()) <= SHORT_OPTION else None


def excluded(person: str, exclude: Collection[str]) -> None:
    """Raises UnusableRow if the person is to be left out."""
    if person in exclude:
        raise UnusableRow(f"persona {person} is excluded")
