"""What pages and statistics ask of one row of `results.jsonl`, or of a few rows or a summary of them."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
FORM_MATTERS = 0.005  # the share of answers from which on a lenient reading of boxes is worth telling


def question_of(row: Row) -> str:
    """The id of the question that a row is about, whichever way it was asked."""
    return row.get("question", row["id"])


def is_open(row: Row) -> bool:
    """Whether a row's question was open-ended."""
    return bool(row.get("open_ended"))


def mean_scores(rows: Sequence[Row]) -> dict[str, float]:
    """{question id: its mean score over all ways in which it was asked}; questions without a score are left out."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["score"] is not None:
            scores.setdefault(question_of(row), []).append(row["score"])
    return {question: sum(values) / len(values) for question, values in scores.items()}


def understated(summary: Mapping[str, Any]) -> bool:
    """Whether answers whose box has another form than was asked for would make a difference worth telling."""
    return "right" in summary and summary["right_leniently"] - summary["right"] > FORM_MATTERS
