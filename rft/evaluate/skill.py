"""Skill measures: compares the words of an answer with the letter in its box, to separate skill from format.

Invariant: every measure depends only on a row's completion, options and gold letter, so that old and new
results are measured in the same way.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from reward import read
from rft.metrics.table import named
from rft.records.row import ResultRow
from rft.records.summary import Statistics

NAMES = {
    key: named(key).card or named(key).series
    for key in (
        "right",
        "right_leniently",
        "consistent",
        "right_and_consistent",
        "thought_letter_right",
        "thought_right",
        "answer_right",
    )
}
"""{measure: its label on the terminal}."""
SHARES = [key for key in NAMES if key != "consistent"]  # of all rows


class SkilledRow(ResultRow):
    """The row of a question with options, and its skill measures.

    Attributes:
        right: 1 if the box names the gold letter.
        consistent: 1 if neither the words of the answer nor the thought name another option than the box
            (None: the box names no letter).
        right_and_consistent: 1 if both hold.
        thought_right, answer_right: 1 if the thought, or the words of the answer, name the gold option.
        thought_letter_right: 1 if the only letter in parentheses in the thought is the gold letter.
        right_leniently: as right, but box formats of other models count too.
        thought_words: number of words in the thought.
        said: the words of the answer.
    """

    right: float
    consistent: float | None
    right_and_consistent: float
    thought_right: float
    thought_letter_right: float
    answer_right: float
    right_leniently: float
    thought_words: int
    said: str


def with_skill(row: ResultRow) -> SkilledRow:
    """Adds the skill measures to the row of a question with options."""
    reading, gold = read(row.completion, row.options), row.gold
    correct = reading.right(gold)
    return SkilledRow(
        **dict(row),
        right=float(correct),
        consistent=None if reading.letter is None else float(reading.consistent),
        right_and_consistent=float(correct and reading.consistent),
        thought_right=float(reading.thought_names == gold),
        thought_letter_right=float(reading.thought_letter == gold),
        answer_right=float(reading.answer_names == gold),
        right_leniently=float(reading.lenient == gold),
        thought_words=reading.thought_words,
        said=reading.answer,
    )


def scored_consistently(row: ResultRow) -> SkilledRow:
    """The row of `with_skill` with `score`: 1 for a right and consistent answer, otherwise 0."""
    skilled = with_skill(row)
    return skilled.model_copy(update={"score": skilled.right_and_consistent})


def skill(rows: Sequence[SkilledRow]) -> dict[str, Any]:
    """Means over N >= 1 rows of `with_skill`, as in `rft.records.summary.Statistics`.

    Returns:
        The means of `SHARES` and thought_words.
        consistent: mean over the rows whose box names a letter (None if there are none).
        most_common_answer: {text, share}: the most frequent answer text and its share of the rows; a share
            near 1 reveals a policy that gives the same answer to everything.
    """
    readable = [row.consistent for row in rows if row.consistent is not None]
    text, count = Counter(row.said for row in rows).most_common(1)[0]
    return {
        **{name: mean([getattr(row, name) for row in rows]) for name in SHARES},
        "consistent": mean(readable) if readable else None,
        "thought_words": mean([row.thought_words for row in rows]),
        "most_common_answer": {"text": text, "share": count / len(rows)},
    }


def lines(summary: Statistics) -> list[str]:
    """The skill measures of a summary as terminal lines, one per measure; [] if its questions had no
    options."""
    if summary.right_and_consistent_ci95 is None or summary.most_common_answer is None:
        return []
    low, high = summary.right_and_consistent_ci95
    values = {key: getattr(summary, key) for key in NAMES}
    shown = {key: f"{100 * value:6.1f} %" for key, value in values.items() if value is not None}
    shown["right_and_consistent"] += f"  (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    most_common = summary.most_common_answer
    return [
        *(f"{NAMES[key]:<62}{figure}" for key, figure in shown.items()),
        f"{'words of a thought, mean':<62}{summary.thought_words:6.1f}",
        f"{'the answer given most often: ' + repr(most_common.text[:30]):<62}"
        f"{100 * most_common.share:6.1f} %",
        *([_cost_of_form(summary)] if summary.understated else []),
    ]


def _cost_of_form(summary: Statistics) -> str:
    points = 100 * ((summary.right_leniently or 0.0) - (summary.right or 0.0))
    return (
        rf"Box format costs {points:.1f} points: boxes such as \boxed{{B.}} or \boxed{{(b) text}} count as"
        r" unreadable."
    )


def mean(values: Sequence[float]) -> float:
    """The mean of N >= 1 values, summed with `math.fsum`."""
    return math.fsum(values) / len(values)
