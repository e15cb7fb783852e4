"""What a good memory of a mini persona says, and when: the simulator knows, since it wrote the chats.

A side file beside the dataset (`memory_targets.jsonl`) holds it for the cold start and for reports. Nothing of it is ever in a prompt.
"""

from dataclasses import asdict, replace
from random import Random
from typing import Any

from rft.memory.notes import Note
from rft.simulate import mini, world
from rft.simulate.mini import Block, Fact

FORGOTTEN = "[forgotten]"


def line(fact: Fact, value: str, kind: str) -> str:
    """A bullet about a topic: what the user enjoys, what somebody else does, or that what was said is forgotten.

    A forgotten preference leaves its topic behind and not its value, so that a reader knows that something was withdrawn.
    """
    if kind == "forget":
        return f"Enjoys {fact.topic.with_value(FORGOTTEN)}."
    return f"Enjoys {fact.topic.with_value(value)}{' (somebody else)' if kind == 'others' else ''}."


def noted(block: Block) -> str | None:
    """The bullet that a block calls for; None where it calls for none (filler, or somebody else's value beside the user's own)."""
    fact = block.fact
    if fact is None:
        return None
    if block.after:
        return line(fact, fact.value or "", fact.kind if fact.kind == "forget" else "own")
    about_other = fact.relative is not None and fact.relative in block.messages[0]["content"]
    if about_other and fact.kind != "others":
        return None
    return line(fact, fact.first, "others" if about_other else "own")


def notes(persona: mini.Persona) -> list[Note]:
    """The notes of a persona's history, in order; messages are counted from the persona message, which is 0."""
    found, place = [], 1
    for block in persona.blocks:
        if (said := noted(block)) is not None:
            assert block.fact is not None
            found.append(Note(place, f"Enjoys {block.fact.topic.with_value(block.fact.first)}", said))
        place += len(block.messages)
    return found


def record(persona: mini.Persona, link: str) -> dict[str, Any]:
    """The line of `memory_targets.jsonl` for one history: its notes, and the values that the user asks to forget."""
    return {
        "history": link, "persona_id": persona.id, "notes": [asdict(note) for note in notes(persona)],
        "withdrawn": [fact.first for fact in persona.facts if fact.kind == "forget"],
    }


def lengthen(rng: Random, persona: mini.Persona, fillers: int) -> mini.Persona:
    """The same persona with `fillers` more filler conversations, spread evenly at block boundaries, as in the 128k histories."""
    blocks = list(persona.blocks)
    places = [round(i * len(blocks) / fillers) for i in range(fillers)]
    for place in reversed(places):
        blocks.insert(place, Block(mini.chat(*rng.choice(world.FILLER)), None, "filler"))
    return replace(persona, blocks=tuple(blocks))
