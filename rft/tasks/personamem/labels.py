"""The labels of a PersonaMem question: what a judge is shown about it, and what reports break down by.

Invariant: a breakdown assigns exactly one value to every question, and depends only on its labels.

The labels are pref_type, who ("self" or "others"), updated, scenario, distance (tokens between the evidence
and the end of the history as counted by the authors; None if not given), preference, prev_pref, sensitive,
topic.
"""

from collections.abc import Mapping
from typing import Any

from reward.judge import case_and_fact
from rft.data.rules import UNKNOWN
from rft.tasks.base import Asked, Shown

DISTANCES = (0, 1, 128, 512, 2048, 8192, 32768)  # lower edges of the distance buckets, in tokens
BUCKETS = [
    "0",
    *(f"{low}-{high - 1}" for low, high in zip(DISTANCES[1:], DISTANCES[2:], strict=False)),
    f"{DISTANCES[-1]}+",
]
TITLES = {
    "kind": "Kind of question",
    "pref_type": "Kind of preference",
    "who": "Whose preference",
    "updated": "Changed later",
    "scenario": "Where it was mentioned",
    "distance": "Tokens since it was mentioned",
    "pref_type_who": "Kind of preference and whose",
}


def kind_of(labels: Mapping[str, Any]) -> str:
    """What a correct answer must recognize about the preference.

    "withdrawn": the user asked to forget it; "sensitive": it is sensitive information; "others": it is
    another person's; "changed": it was updated; "plain": none of these.
    """
    if labels["pref_type"] == "ask_to_forget":
        return "withdrawn"
    if labels["sensitive"] or labels["pref_type"] == "sensitive_info":
        return "sensitive"
    if labels["who"] == "others":
        return "others"
    return "changed" if labels["updated"] else "plain"


def distance_bucket(distance: int | None) -> str:
    """Returns the bucket of a distance, the number of tokens between the evidence and the end of the history.

    "0" contains mostly questions without evidence. "unknown" means that the data does not give a distance.
    """
    if distance is None or distance < 0:
        return UNKNOWN
    return BUCKETS[sum(distance >= edge for edge in DISTANCES) - 1]


def groups(labels: Mapping[str, Any]) -> dict[str, str]:
    """Returns {name of the breakdown: value}."""
    return {
        "kind": kind_of(labels),
        "pref_type": labels["pref_type"],
        "who": labels["who"],
        "updated": str(labels["updated"]).lower(),
        "scenario": labels["scenario"],
        "distance": distance_bucket(labels["distance"]),
        "pref_type_who": f"{labels['pref_type']}, {labels['who']}",
    }


def shown(labels: Mapping[str, Any]) -> Shown:
    """Returns how a page shows the labels."""
    scenario = labels["scenario"].replace("_", " ").strip() or "(not given)"
    return Shown(
        kind=labels["pref_type"],
        about=f"{labels['who']}, {scenario}" + ", changed later" * bool(labels["updated"]),
        facts=tuple(f"{key}: {labels[key]}" for key in ("preference", "prev_pref") if labels[key]),
    )


def judged(question: Asked) -> tuple[str, str]:
    """Returns (the judge's rubric, the fact that the judge is shown)."""
    return case_and_fact(**question.labels)


def about(labels: Mapping[str, Any]) -> str:
    """Returns the preference that a question is about, in the wording of `MemoryTarget.about`."""
    return labels.get("prev_pref") or labels.get("preference") or ""
