"""From result rows to numbers with honest intervals.

Invariant: a summary depends on the set of rows alone, not on their order or on how many runs it took to
collect them. The unit of resampling is the persona, since the questions of one persona share a history and
are not independent.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from reward import mcq_metrics

RESAMPLES = 10_000
DISTANCES = (0, 1, 128, 512, 2048, 8192, 32768)  # lower edges of the distance buckets, in tokens

Row = Mapping[str, Any]


def summarise(rows: Sequence[Row], seed: int = 0) -> dict[str, Any]:
    """The statistics of N >= 1 result rows, as they stand in `summary.json`.

    Returns:
        accuracy: mean of `score`, that is, of the gated reward; ci95: its 95 % interval over personas;
        accuracy_without_gate: share that names the gold letter, reasoning or not; n, personas: counts;
        unparsed_rate, format_rate, answer_letters: as in `reward.mcq_metrics`; cut_off_rate: share of
        completions that ran into the length limit; input_tokens_per_question, output_tokens_per_question:
        means; input_tokens_with_writing: the former, with what was read to write the memories spread over the
        questions asked of them (only where there are memories); by: {category: {value: {accuracy, ci95, n}}};
        seconds: time spent answering.
    """
    summary = {
        "accuracy": _mean([row["score"] for row in rows]),
        "ci95": interval(rows, seed),
        "accuracy_without_gate": _mean([row["answered"] == row["gold"] for row in rows]),
        "n": len(rows),
        "personas": len({row["persona_id"] for row in rows}),
        **mcq_metrics([row["completion"] for row in rows]),
        "cut_off_rate": _mean([not row["finished"] for row in rows]),
        "input_tokens_per_question": _mean([row["input_tokens"] for row in rows]),
        "output_tokens_per_question": _mean([row["output_tokens"] for row in rows]),
        "by": {name: _table(rows, value_of, seed) for name, value_of in CATEGORIES.items()},
        "seconds": round(math.fsum(row["seconds"] for row in rows), 3),
    }
    if any("writing_tokens" in row for row in rows):
        written = {row["history_id"]: row["writing_tokens"] for row in rows if "writing_tokens" in row}
        summary["input_tokens_with_writing"] = summary["input_tokens_per_question"] + sum(written.values()) / len(rows)
    return summary


def interval(rows: Sequence[Row], seed: int = 0) -> list[float]:
    """The 95 % interval [lo, hi] of the mean score when the personas are drawn anew.

    Personas are resampled with replacement; each resample's accuracy is the ratio of its right answers to its
    questions. The percentiles are widened for few personas (the expanded percentile interval: Hesterberg,
    "What Teachers Should Know About the Bootstrap", The American Statistician 69, 2015). Where every answer is
    right, or every one wrong, all resamples agree; then the bound is the exact one of P personas that all
    succeed or all fail (Clopper and Pearson, 1934). One persona with both says nothing about others: [0, 1].
    """
    order = {persona: i for i, persona in enumerate(sorted({row["persona_id"] for row in rows}))}
    who = [order[row["persona_id"]] for row in rows]
    right_P = np.bincount(who, weights=[row["score"] for row in rows])  # P: personas
    asked_P = np.bincount(who)
    personas = len(order)
    if not right_P.any():
        return [0.0, 1 - 0.025 ** (1 / personas)]
    if (right_P == asked_P).all():
        return [0.025 ** (1 / personas), 1.0]
    if personas == 1:
        return [0.0, 1.0]
    draws_RP = np.random.default_rng(seed).multinomial(personas, np.full(personas, 1 / personas), RESAMPLES)
    accuracy_R = (draws_RP @ right_P) / (draws_RP @ asked_P)
    tail = NormalDist().cdf(-math.sqrt(personas / (personas - 1)) * t_quantile(0.975, personas - 1))
    return [float(edge) for edge in np.quantile(accuracy_R, [tail, 1 - tail])]


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile (probability > 0.5) of Student's t distribution.

    With t = sqrt(degrees) * tan(angle) the density over the angle is cos(angle) ** (degrees - 1), which is
    integrated by the trapezoid rule.
    """
    angle = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angle) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(np.interp(probability - 0.5, mass / (2 * mass[-1]), angle))


def distance_bucket(distance: int | None) -> str:
    """The bucket of a distance in tokens between the evidence and the end of the history.

    "0" are mostly questions without evidence; "unknown" where the data does not say.
    """
    if distance is None or distance < 0:
        return "unknown"
    return _BUCKETS[sum(distance >= edge for edge in DISTANCES) - 1]


def _bucket_names() -> list[str]:
    inner = [f"{low}-{high - 1}" for low, high in zip(DISTANCES[1:], DISTANCES[2:], strict=False)]
    return ["0", *inner, f"{DISTANCES[-1]}+"]


_BUCKETS = _bucket_names()

CATEGORIES: dict[str, Callable[[Row], str]] = {
    "pref_type": lambda row: row["labels"]["pref_type"],
    "who": lambda row: row["labels"]["who"],
    "updated": lambda row: str(row["labels"]["updated"]).lower(),
    "scenario": lambda row: row["labels"]["scenario"],
    "distance": lambda row: distance_bucket(row["labels"]["distance"]),
}


def _table(rows: Sequence[Row], value_of: Callable[[Row], str], seed: int) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(value_of(row), []).append(row)
    return {
        value: {
            "accuracy": _mean([row["score"] for row in groups[value]]),
            "ci95": interval(groups[value], seed),
            "n": len(groups[value]),
        }
        for value in sorted(groups, key=_rank)
    }


def _rank(value: str) -> tuple[int, str]:
    """Distance buckets from near to far, all else by name."""
    return (_BUCKETS.index(value) if value in _BUCKETS else len(_BUCKETS), value)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
