"""Helpers that pages and statistics use on rows of `results.jsonl` and on summaries of them."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
FORM_MATTERS = 0.005  # a lenient reading of boxes is reported if it changes at least this share of answers


def question_of(row: Row) -> str:
    """Returns the id of a row's question, the same for all option orders and samples."""
    return row.get("question", row["id"])


def is_open(row: Row) -> bool:
    """Whether a row's question was open-ended."""
    return bool(row.get("open_ended"))


def mean_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Returns {question id: mean score over its option orders and samples}, without the questions that have
    no score."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["score"] is not None:
            scores.setdefault(question_of(row), []).append(row["score"])
    return {question: sum(values) / len(values) for question, values in scores.items()}


def understated(summary: Mapping[str, Any]) -> bool:
    """Whether answers whose box has another form than requested change the result enough to report it."""
    return "right" in summary and summary["right_leniently"] - summary["right"] > FORM_MATTERS
