"""The kinds of questions that figures are broken down by: what a question is called follows from its labels alone.

Invariant: a category gives every question one value. `nameless` are the values that say nothing: a question about something
that was never told has no scenario and no distance.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rft.data.question import kind

DISTANCES = (0, 1, 128, 512, 2048, 8192, 32768)  # lower edges of the distance buckets, in tokens
UNKNOWN = "unknown"
BUCKETS = ["0", *(f"{low}-{high - 1}" for low, high in zip(DISTANCES[1:], DISTANCES[2:], strict=False)), f"{DISTANCES[-1]}+"]


def distance_bucket(distance: int | None) -> str:
    """The bucket of a distance in tokens between the evidence and the end of the history.

    "0" are mostly questions without evidence; "unknown" where the data does not say.
    """
    if distance is None or distance < 0:
        return UNKNOWN
    return BUCKETS[sum(distance >= edge for edge in DISTANCES) - 1]


OF_LABELS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "kind": lambda labels: kind(**labels),
    "pref_type": lambda labels: labels["pref_type"],
    "who": lambda labels: labels["who"],
    "updated": lambda labels: str(labels["updated"]).lower(),
    "scenario": lambda labels: labels["scenario"],
    "distance": lambda labels: distance_bucket(labels["distance"]),
    "pref_type_who": lambda labels: f"{labels['pref_type']}, {labels['who']}",
}


def nameless(value: str) -> bool:
    """Whether a value of a category stands for a label that is missing."""
    return value in ("", UNKNOWN)
