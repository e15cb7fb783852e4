"""Notation of the offline writer: `[a|b]` is a choice, `{name}` a slot, `rough => polished` two versions of
one sentence.

Invariant: every draw uses the random generator of the caller, so the same generator writes the same text.
Within one entry a slot keeps its value, on both sides of an arrow; slots given by the caller keep it for a
whole conversation.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

import yaml

CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")
SLOT = re.compile(r"\{(\w+)\}")
ORDINALS = ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
LISTS = {
    "friend2": "friends",
    "colleague": "colleagues",
    "day": "days",
    "month": "months",
    "city": "cities",
    "place": "places",
    "thing": "things",
    "dept": "departments",
    "language": "languages",
    "friend": "friends",
    "client": "colleagues",
    "who": "relatives",
    "relname": "relative_names",
}
Slots = Mapping[str, str]


@cache
def load(name: str) -> Any:
    """Loads a word file of the package; parsed once per process."""
    return yaml.safe_load((files("rft.simulate") / "words" / f"{name}.yaml").read_text(encoding="utf-8"))


def draw_slot(rng: Random, name: str) -> str:
    """Draws a value for a slot that the caller did not set."""
    if name in LISTS:
        return str(rng.choice(load("people")[LISTS[name]]))
    if name == "n":
        return str(rng.randint(3, 60))
    if name == "number":
        return str(rng.randint(1000, 99999))
    if name == "time":
        return f"{rng.randint(6, 22)}:{rng.choice(('05', '10', '15', '20', '30', '40', '45', '50'))}"
    if name == "nth":
        return rng.choice(ORDINALS)
    raise KeyError(f"no such slot: {name}")


def fill(rng: Random, text: str, slots: Slots) -> str:
    """Resolves choices, then slots; each slot that is not in `slots` is drawn once."""
    text = CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
    drawn: dict[str, str] = {}

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in slots:
            return slots[name]
        # no message to a person is about that same person
        while name not in drawn or drawn[name] in slots.values():
            drawn[name] = draw_slot(rng, name)
        return drawn[name]

    return SLOT.sub(value, text)


def say(rng: Random, rule: str, slots: Slots) -> str:
    """Returns one random entry of a rule, filled."""
    return fill(rng, rng.choice(load("grammar")[rule]), slots)


def say_pair(rng: Random, rule: str, slots: Slots) -> tuple[str, str]:
    """Returns one random entry of a rule with arrows, as `pair` does."""
    return pair(rng, rng.choice(load("grammar")[rule]), slots)


def several(rng: Random, rule: str, slots: Slots, count: int) -> list[str]:
    """Returns `count` different entries of a rule without an arrow."""
    return [fill(rng, entry, slots) for entry in rng.sample(load("grammar")[rule], count)]


def pair(rng: Random, entry: str, slots: Slots) -> tuple[str, str]:
    """Returns an entry with an arrow as (rough, polished)."""
    rough, arrow, polished = fill(rng, entry, slots).partition(" => ")
    assert arrow, f"entry without an arrow: {entry}"
    return rough[0].upper() + rough[1:], polished[0].upper() + polished[1:]


def shuffled(rng: Random, items: Sequence[Any]) -> list[Any]:
    """Returns the items in random order."""
    return rng.sample(list(items), len(items))
