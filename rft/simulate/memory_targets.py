"""Memory targets of mini personas: what a good memory contains after each message. The simulator knows, since
it wrote the chats.

The targets are written to `memory_targets.jsonl` in the dataset folder, for the cold start and for reports.
Invariant: no prompt contains any of them.
"""

from dataclasses import asdict, replace
from random import Random
from typing import Any

from rft.memory.targets import MemoryTarget
from rft.memory.text import FORGOTTEN
from rft.simulate import mini, mini_vocabulary
from rft.simulate.mini import STORIES, Block, Fact

THEIRS = ", not the user's own"  # comes after somebody else's preference


def note(block: Block, message: int, about: str | None = None) -> MemoryTarget | None:
    """Returns the memory target of one block.

    A preference that is somebody else's is followed by `THEIRS`, as in the answers. A withdrawn preference is
    written once more with "forget it", and stored without its value.

    Args:
        block: a conversation of the persona.
        message: index of its first message in the history.
        about: preference of the target (default: the one named by the labels of the fact's question).

    Returns:
        The target, or None for filler, a mere mention, or somebody else's value beside the user's own.
    """
    fact = block.fact
    if fact is None or fact.kind == "mention":
        return None
    topic, first = fact.topic, f"Enjoys {fact.topic.with_value(fact.first)}"
    # as the question's labels name it
    about = about or (f"Enjoys {topic.with_value(fact.rival)}" if fact.rival else first)
    about_other = (
        not block.after and fact.relative is not None and fact.relative in block.messages[0]["content"]
    )
    if about_other and fact.kind != "others":
        return None
    if fact.kind in STORIES["withdrawn"] and block.after and block.telling:
        return MemoryTarget(
            message, about, f"{topic.name}: {FORGOTTEN}.", f"{topic.name}: {first}, forget it."
        )
    if fact.kind == "ended" and block.after:
        return MemoryTarget(message, about, f"{topic.name}: Gave up {topic.with_value(fact.first)}.")
    held = f"Enjoys {topic.with_value(fact.value or '')}" if block.after else first
    whose = THEIRS if about_other else ""
    return MemoryTarget(message, about, f"{topic.name}: {held}{whose}.")


def notes(persona: mini.Persona) -> list[MemoryTarget]:
    """Returns the memory targets of a persona's history, in order. Message 0 is the system message.

    If somebody else's value comes before the user's own value of the same topic, it is a target (as theirs)
    until the user's own value replaces it, because a reader cannot know yet that the user's own will follow.
    """
    found: list[MemoryTarget] = []
    known: set[Fact] = set()
    place = 1
    for block in persona.blocks:
        fact, called_for = block.fact, note(block, place)
        if fact is not None and fact.rival and called_for is None and fact not in known:
            called_for = _theirs(fact, place)
        if fact is not None:
            known.add(fact)
        if called_for is not None:
            found.append(called_for)
        place += len(block.messages)
    return found


def _theirs(fact: Fact, message: int) -> MemoryTarget:
    """The memory target for somebody else's value of a topic on which the user has not revealed a value
    yet."""
    theirs = f"Enjoys {fact.topic.with_value(fact.rival or '')}"
    return MemoryTarget(message, theirs, f"{fact.topic.name}: {theirs}{THEIRS}.")


def record(persona: mini.Persona, link: str) -> dict[str, Any]:
    """Returns the line of `memory_targets.jsonl` for one history: its targets, and the values that the user
    asks to forget."""
    return {
        "history": link,
        "persona_id": persona.id,
        "notes": [asdict(found) for found in notes(persona)],
        "withdrawn": [fact.first for fact in persona.facts if fact.kind in STORIES["withdrawn"]],
    }


def lengthen(rng: Random, persona: mini.Persona, fillers: int) -> mini.Persona:
    """Returns the persona with `fillers` more filler conversations, spread evenly over block boundaries (the
    128k history)."""
    blocks = list(persona.blocks)
    places = [round(i * len(blocks) / fillers) for i in range(fillers)]
    for place in reversed(places):
        blocks.insert(place, Block(mini.chat(*rng.choice(mini_vocabulary.FILLER)), None, "filler"))
    return replace(persona, blocks=tuple(blocks))
