"""`comparison.json`: paired differences of evaluations from the first of them."""

from pydantic import JsonValue

from rft.records.base import Record, Versioned


class Difference(Record):
    """The mean difference over the questions that both runs answered.

    Attributes:
        difference: positive if the first run is worse.
        ci95: 95 % interval over personas.
        p: two-sided permutation test over personas.
        n, personas: number of questions and of personas.
        accuracy, first_accuracy: of this run and of the first, on these questions.
        better, worse: number of questions on which the run scores more or less than the first.
        p_holm: p corrected for the values of its category by Holm's method (only in categories).
    """

    difference: float
    ci95: list[float]
    p: float
    n: int
    personas: int
    accuracy: float
    first_accuracy: float
    better: int
    worse: int
    p_holm: float | None = None


class SameAnswers(Record):
    """How many of n completions are the same word for word."""

    same: int
    n: int


class Against(Record):
    """The differences of a run from the first: overall, by category, and in its words."""

    all: Difference
    by: dict[str, dict[str, Difference]]
    answers: SameAnswers


class ComparedRun(Record):
    """A run as its own summary describes it."""

    model: str
    context: str
    accuracy: float | None
    ci95: list[float] | None
    n: int
    settings: dict[str, JsonValue]


class Comparison(Versioned):
    """`comparison.json`: the compared runs, and the differences of each from the run named `first`."""

    first: str
    data_sha256: str
    split: str
    window: str
    runs: dict[str, ComparedRun]
    against: dict[str, Against]
