"""`summary.json` of an evaluation and of a quickstart, and `sweep.json`.

Invariant: a measure that does not apply to a run is absent, not zero: skill measures to open-ended questions,
lines to a run without memories.
"""

from pathlib import Path

from pydantic import JsonValue

from rft.errors import DataError
from rft.records.base import Record, Versioned, read_json

SUMMARY = "summary.json"
FORM_MATTERS = 0.005  # a lenient reading of boxes is reported if it changes at least this share of answers


class Measure(Record):
    """An accuracy, its 95 % interval over personas (both None if nothing is scored), and the number of
    scored questions."""

    accuracy: float | None
    ci95: list[float] | None
    n: int


class Cell(Measure):
    """The measures of one category value.

    Attributes:
        accuracy_without_gate: share that names the gold letter (or satisfies the judge), with or without
            reasoning.
        right_and_consistent: share whose box is right and whose words name no other option; with its
            interval.
        consistent: share whose words name no other option than the box (None: no readable box).
        thought_right: share whose thought names the gold option.
    """

    accuracy_without_gate: float | None = None
    right_and_consistent: float | None = None
    consistent: float | None = None
    thought_right: float | None = None
    right_and_consistent_ci95: list[float] | None = None


class Control(Measure):
    """The accuracy that a control reaches without the history.

    Attributes:
        explains: share of the run's right answers that the control gets right too (None: no right answer).
        rule, tried, bar, telling: the strongest rule, see `rft.data.rules.Strongest`.
        by: {category: {value: the control on it}} for large cells.
    """

    explains: float | None
    rule: str | None = None
    tried: int | None = None
    bar: float | None = None
    telling: bool | None = None
    by: dict[str, dict[str, "Control"]] | None = None


class CommonAnswer(Record):
    """The most frequent words of an answer, and their share of the answers."""

    text: str
    share: float


class Samples(Record):
    """See `rft.evaluate.statistics.of_samples`."""

    count: int
    mean: float | None
    majority: float | None
    pass_at: dict[str, float]


class OptionOrders(Record):
    """See `rft.evaluate.statistics.of_orders`."""

    count: int
    consistency: float | None
    position_bias: float | None
    accuracy_at: dict[str, float]


class Usage(Record):
    """Tokens, dollars and failed calls, summed over all answers (None: no server reported them)."""

    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    answers_without_usage: int = 0
    cost: float
    failures: dict[str, int]


class Statistics(Cell):
    """The statistics of result rows; `rft.evaluate.statistics.summarise` explains each entry."""

    personas: int
    asked: int
    not_scored: int
    guessing: float = 0.25
    unparsed_rate: float
    format_rate: float
    exact_match: float | None = None
    token_f1: float | None = None
    answer_letters: dict[str, int]
    right: float | None = None
    thought_letter_right: float | None = None
    answer_right: float | None = None
    right_leniently: float | None = None
    thought_words: float | None = None
    most_common_answer: CommonAnswer | None = None
    refused_rate: float = 0.0
    endings: dict[str, int] = {}
    adapted: dict[str, int] = {}
    cut_off_rate: float
    input_tokens_per_question: float | None
    input_tokens_with_writing: float | None = None
    output_tokens_per_question: float | None
    by: dict[str, dict[str, Cell]]
    controls: dict[str, Control]
    explained_by_shortcut: float | None
    samples: Samples | None = None
    option_orders: OptionOrders | None = None
    usage: Usage
    seconds: float

    @property
    def understated(self) -> bool:
        """Whether answers whose box has another form than requested change the result enough to report."""
        if self.right is None or self.right_leniently is None:
            return False
        return self.right_leniently - self.right > FORM_MATTERS


class ReaderStatistics(Statistics):
    """The statistics of a fixed reader's answers, and its name."""

    model: str


class Forgotten(Record):
    """See `rft.evaluate.timeline.forgotten`."""

    withdrawn: int
    written: int
    gone: int
    rate: float | None
    kept: list[tuple[str, str]]


class LineCounts(Record):
    """How many expected lines of memories have each verdict.

    Attributes:
        targets: number of expected lines.
        right, wrong, missing: how many of them have each verdict.
        right_rate: right / targets (None without targets).
    """

    targets: int
    right: int
    wrong: int
    missing: int
    right_rate: float | None


class Lines(LineCounts):
    """Counts of judged lines, in all and by kind of question; see `rft.evaluate.lines.summarise`.

    Attributes:
        extra: number of lines that are not expected.
        ci95: 95 % interval of right_rate over personas (None without targets).
        by: {kind: its counts}.
        memories, withdrawn, withdrawn_present: number of memories, of values that users ask to forget, and
            of those that the memories still mention.
    """

    extra: int
    ci95: list[float] | None
    by: dict[str, LineCounts]
    memories: int | None = None
    withdrawn: int | None = None
    withdrawn_present: int | None = None


class About(Versioned):
    """What was evaluated, on which data."""

    model: str
    context: str
    split: str
    window: str
    data_sha256: str


class Summary(Statistics, About):
    """`summary.json`: an evaluation in numbers.

    Attributes:
        forgotten, lines: quality of the memories (only with memories).
        reader: the same questions answered by a fixed reader from the same memories.
        unanswered, too_long: number of questions without an answer, and of those too long for the model.
        questions_in_split: number of questions that could have been asked.
        settings: what the answers depend on.
        task: name of the task (only if it is not personamem).
        published: figures of others, as the dataset states them: (name, metric, value, source).
    """

    forgotten: Forgotten | None = None
    lines: Lines | None = None
    reader: ReaderStatistics | None = None
    unanswered: int
    too_long: int = 0
    questions_in_split: int
    settings: dict[str, JsonValue]
    task: str = "personamem"
    published: list[tuple[str, str, float, str]] = []


class SweepPoint(Measure):
    """One checkpoint in `sweep.json`."""

    checkpoint: str
    folder: str
    step: int | None
    accuracy_without_gate: float | None
    format_rate: float
    unparsed_rate: float
    controls: dict[str, Control]


class QuickstartSummary(Versioned):
    """`summary.json` of a quickstart: the evaluation of each stage, and the seconds of each."""

    blind: Summary
    longest_option: Summary
    sft: Summary
    grpo: Summary
    memory_sft: Summary | None = None
    memory: Summary | None = None
    forget: Summary | None = None
    seconds: dict[str, float]


def read_summary(folder: Path) -> Summary:
    """Reads the summary of a finished evaluation. Raises DataError if there is none or it is broken."""
    path = folder / SUMMARY
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected the folder of a finished `rft evaluate`")
    return read_json(
        path, Summary, "run the same evaluation again: it rewrites this file from the answers on disk"
    )
