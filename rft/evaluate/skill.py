"""Skill told from form: what the words of an answer say, beside the letter in its box.

Invariant: everything follows from a row's completion, options and gold letter, so that results of any age are read alike.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reward import read
from rft.report.row import Row, understated

NAMES = {
    "right": "the box names the gold letter",
    "right_leniently": "the same, forms of boxes that other models use included",
    "consistent": "of the boxes that can be read, no words name another option",
    "right_and_consistent": "right and consistent",
    "thought_letter_right": "the letter in the thought is gold",
    "thought_right": "the thought names the gold option",
    "answer_right": "the answer's words name the gold option",
}
"""By how much the lenient reading must exceed the strict one for a page and the terminal to point it out."""
SHARES = ("right", "right_and_consistent", "thought_right", "thought_letter_right", "answer_right", "right_leniently")


def with_skill(row: Row) -> dict[str, Any]:
    """The row of a question with options, and what its words come to.

    right: the box names the gold letter; consistent: neither the words of the answer nor the thought name another option than the
    box (None: the box names no letter); right_and_consistent: both; thought_right, answer_right: the thought, or the words of the
    answer, name the gold option; thought_letter_right: the one letter in parentheses in the thought is gold; right_leniently: as
    right, where forms of boxes that other models use count as well; thought_words: their number; said: the words of the answer.
    """
    reading, gold = read(row["completion"], row["options"]), row["gold"]
    right = reading.right(gold)
    return {
        **row,
        "right": float(right),
        "consistent": None if reading.letter is None else float(reading.consistent),
        "right_and_consistent": float(right and reading.consistent),
        "thought_right": float(reading.thought_names == gold),
        "thought_letter_right": float(reading.thought_letter == gold),
        "answer_right": float(reading.answer_names == gold),
        "right_leniently": float(reading.lenient == gold),
        "thought_words": reading.thought_words,
        "said": reading.answer,
    }


def scored_consistently(row: Row) -> dict[str, Any]:
    """The row with its score: 1 for a right and consistent answer, else 0."""
    known = with_skill(row)
    return known | {"score": known["right_and_consistent"]}


def skill(rows: Sequence[Row]) -> dict[str, Any]:
    """Means over N >= 1 rows of `with_skill`; consistent: of the rows whose box names a letter (None: no row's does);
    most_common_answer: the words that most answers say, and the share that says them (a policy that says the same to everything
    shows here)."""
    readable = [row["consistent"] for row in rows if row["consistent"] is not None]
    text, count = Counter(row["said"] for row in rows).most_common(1)[0]
    return {
        **{name: mean([row[name] for row in rows]) for name in SHARES},
        "consistent": mean(readable) if readable else None,
        "thought_words": mean([row["thought_words"] for row in rows]),
        "most_common_answer": {"text": text, "share": count / len(rows)},
    }


def lines(summary: Mapping[str, Any]) -> list[str]:
    """The figures of a summary for a terminal, a line each; [] if its questions had no options."""
    if "right_and_consistent" not in summary:
        return []
    low, high = summary["right_and_consistent_ci95"]
    shown = {key: f"{100 * summary[key]:6.1f} %" for key in NAMES if summary[key] is not None}
    shown["right_and_consistent"] += f"  (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    said = summary["most_common_answer"]
    return [
        *(f"{NAMES[key]:<62}{figure}" for key, figure in shown.items()),
        f"{'words of a thought, mean':<62}{summary['thought_words']:6.1f}",
        f"{'the answer given most often: ' + repr(said['text'][:30]):<62}{100 * said['share']:6.1f} %",
        *([_cost_of_form(summary)] if understated(summary) else []),
    ]


def _cost_of_form(summary: Mapping[str, Any]) -> str:
    points = 100 * (summary["right_leniently"] - summary["right"])
    return rf"Form costs this model {points:.1f} points: boxes such as \boxed{{B.}} or \boxed{{(b) text}} count as unreadable."


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
