"""Result rows and summaries for tests: what a test does not name has a plain value."""

from typing import Any

from rft.evaluate.statistics import summarise
from rft.records.row import ResultRow
from rft.records.summary import Summary

LABELS = {
    "pref_type": "neutral_preferences",
    "who": "self",
    "updated": False,
    "scenario": "chat",
    "distance": 5,
    "preference": "Tea",
    "prev_pref": "",
    "sensitive": False,
}
ROW = {
    "history_id": "h",
    "query": "What now?",
    "options": ["tea", "milk", "mate", "cocoa"],
    "gold": "a",
    "finished": True,
    "input_tokens": 10,
    "output_tokens": 5,
    "seconds": 0.1,
}
ABOUT = {
    "model": "out/grpo",
    "context": "history",
    "split": "benchmark",
    "window": "32k",
    "data_sha256": "abc",
    "questions_in_split": 100,
    "unanswered": 0,
    "too_long": 0,
    "settings": {"temperature": 0},
}


def result_row(number: int, score: float, persona: str = "1", **given: Any) -> ResultRow:
    """A reasoned answer in a box: (a), which is right, or (b)."""
    letter = "a" if score else "b"
    row = ROW | {
        "id": f"benchmark-{number}",
        "persona_id": persona,
        "labels": LABELS,
        "answered": letter,
        "score": float(score),
        "completion": f"<think>Hm.</think>\\boxed{{{letter}}}",
    }
    return ResultRow.model_validate(row | given | {"labels": LABELS | given.get("labels", {})})


def changed(row: ResultRow, **given: Any) -> ResultRow:
    """The row with other values; labels that are not named stay."""
    known = row.dump()
    return ResultRow.model_validate(known | given | {"labels": known["labels"] | given.get("labels", {})})


def summary_of(rows: list[ResultRow], **given: Any) -> Summary:
    """The summary of an evaluation with these rows."""
    return Summary.model_validate(ABOUT | summarise(rows).dump() | given)
