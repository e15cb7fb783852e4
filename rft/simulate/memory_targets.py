"""What a good memory of a mini persona says, and when: the simulator knows, since it wrote the chats.

A side file beside the dataset (`memory_targets.jsonl`) holds it for the cold start and for reports. Nothing of it is ever in
a prompt.
"""

from dataclasses import asdict, replace
from random import Random
from typing import Any

from rft.memory.targets import MemoryTarget
from rft.memory.text import FORGOTTEN
from rft.simulate import mini, mini_vocabulary
from rft.simulate.mini import STORIES, Block, Fact

THEIRS = ", not the user's own"  # stands behind somebody else's preference


def note(block: Block, message: int, about: str | None = None) -> MemoryTarget | None:
    """The note that a block calls for at `message`; None where it calls for none (filler, or somebody else's value beside the
    user's own, or a mere mention). `about`: by default the preference that the labels of the fact's question name.

    Whose a preference is stands behind it, as in the answers. What is withdrawn is written down once more to be forgotten,
    and stored without its value.
    """
    fact = block.fact
    if fact is None or fact.kind == "mention":
        return None
    topic, first = fact.topic, f"Enjoys {fact.topic.with_value(fact.first)}"
    about = about or (f"Enjoys {topic.with_value(fact.rival)}" if fact.rival else first)  # as the question's labels name it
    about_other = not block.after and fact.relative is not None and fact.relative in block.messages[0]["content"]
    if about_other and fact.kind != "others":
        return None
    if fact.kind in STORIES["withdrawn"] and block.after and block.telling:
        return MemoryTarget(message, about, f"{topic.name}: {FORGOTTEN}.", f"{topic.name}: {first}, forget it.")
    if fact.kind == "ended" and block.after:
        return MemoryTarget(message, about, f"{topic.name}: Gave up {topic.with_value(fact.first)}.")
    held = f"Enjoys {topic.with_value(fact.value or '')}" if block.after else first
    whose = THEIRS if about_other else ""
    return MemoryTarget(message, about, f"{topic.name}: {held}{whose}.")


def notes(persona: mini.Persona) -> list[MemoryTarget]:
    """The notes of a persona's history, in order; messages are counted from the persona message, which is 0.

    Somebody else's value that comes before the user's own of the same topic is noted as theirs and replaced later: whoever reads
    on from there cannot know that the user's own will follow.
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
    """What is noted of somebody else's value of a topic of which the user has said nothing yet."""
    theirs = f"Enjoys {fact.topic.with_value(fact.rival or '')}"
    return MemoryTarget(message, theirs, f"{fact.topic.name}: {theirs}{THEIRS}.")


def record(persona: mini.Persona, link: str) -> dict[str, Any]:
    """The line of `memory_targets.jsonl` for one history: its notes, and the values that the user asks to forget."""
    return {
        "history": link,
        "persona_id": persona.id,
        "notes": [asdict(found) for found in notes(persona)],
        "withdrawn": [fact.first for fact in persona.facts if fact.kind in STORIES["withdrawn"]],
    }


def lengthen(rng: Random, persona: mini.Persona, fillers: int) -> mini.Persona:
    """The same persona with `fillers` more filler conversations, spread evenly at block boundaries, as in the 128k
    histories."""
    blocks = list(persona.blocks)
    places = [round(i * len(blocks) / fillers) for i in range(fillers)]
    for place in reversed(places):
        blocks.insert(place, Block(mini.chat(*rng.choice(mini_vocabulary.FILLER)), None, "filler"))
    return replace(persona, blocks=tuple(blocks))
