"""Question categories by which metrics are broken down. They depend only on the labels.

Invariant: a category assigns exactly one value to every question. `nameless` values stand for a missing
label: a question about something that is not in the history has no scenario and no distance.
"""

from collections.abc import Callable

from rft.data.question import Labels

DISTANCES = (0, 1, 128, 512, 2048, 8192, 32768)  # lower edges of the distance buckets, in tokens
UNKNOWN = "unknown"
BUCKETS = [
    "0",
    *(f"{low}-{high - 1}" for low, high in zip(DISTANCES[1:], DISTANCES[2:], strict=False)),
    f"{DISTANCES[-1]}+",
]


def distance_bucket(distance: int | None) -> str:
    """Returns the bucket of a distance, the number of tokens between the evidence and the end of the history.

    "0" contains mostly questions without evidence. "unknown" means that the data does not give a distance.
    """
    if distance is None or distance < 0:
        return UNKNOWN
    return BUCKETS[sum(distance >= edge for edge in DISTANCES) - 1]


OF_LABELS: dict[str, Callable[[Labels], str]] = {
    "kind": lambda labels: labels.kind,
    "pref_type": lambda labels: labels.pref_type,
    "who": lambda labels: labels.who,
    "updated": lambda labels: str(labels.updated).lower(),
    "scenario": lambda labels: labels.scenario,
    "distance": lambda labels: distance_bucket(labels.distance),
    "pref_type_who": lambda labels: f"{labels.pref_type}, {labels.who}",
}


def nameless(value: str) -> bool:
    """Returns whether a category value stands for a missing label."""
    return value in ("", UNKNOWN)
