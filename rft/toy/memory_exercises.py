"""Memory exercises for the tiny base model: updating a memory from a chunk of a chat, and recalling from a
memory.

Invariant: no text here is a question of the dataset. There is no option to choose, no think block and no
boxed letter. Updates have the layout of the agent's own prompts (`rft.memory.agent`).
"""

from dataclasses import replace
from random import Random

from rft.data.prompt import SYSTEM
from rft.memory.agent import answer_message, update_message
from rft.memory.text import EMPTY
from rft.simulate import writer_mini
from rft.simulate.memory_targets import is_theirs, target_of
from rft.simulate.persona_record import chat
from rft.tasks.memory_targets import MemoryTargets

# balanced, so that each kind is learned
KINDS = ("own", "own", "beside", "update", "update", "forget", "forget", "others")
MOST_CONVERSATIONS = 8  # per chunk


def memory_document(rng: Random, difficulty: float, recalls: float = 0.3) -> list[dict[str, str]]:
    """Draws a text as chat messages: a memory is updated from a chunk, or some of its topics are recalled.

    The chunk is any sequence of a persona's conversations, also one with nothing to remember. The memory
    contains what the conversations before the chunk require, so it is often empty.

    Args:
        rng: source of all draws.
        difficulty: from 0 to 1, raises the maximum number of topics from 2 to 8, and the length of chunks.
        recalls: probability of a recall if the memory is not empty.
    """
    kinds = tuple(rng.sample(KINDS, rng.randint(2, 2 + round(6 * difficulty))))
    _, facts, conversations = writer_mini.draw(
        Random(rng.getrandbits(40)), 0, kinds, rng.randint(0, 1 + round(5 * difficulty))
    )
    start = rng.randint(0, len(conversations) - 1)
    most = start + 2 + round((MOST_CONVERSATIONS - 2) * difficulty)
    stop = rng.randint(start + 1, min(len(conversations), most))
    targets = []
    for i, conversation in enumerate(conversations):
        if conversation.about is not None:
            fact = facts[conversation.about]
            preference = writer_mini.mini_preference(fact)
            beside = fact.kind == "beside" and is_theirs(preference, conversation)
            target = None if beside else target_of(preference, conversation, i)
            targets += [replace(target, about=fact.topic.name)] if target else []
    memory_targets = MemoryTargets(tuple(targets), ())
    before, after = memory_targets.lines(start - 1), memory_targets.update(start, stop - 1)
    system = {"role": "system", "content": SYSTEM}
    if before and rng.random() < recalls:
        # a line itself says whose preference it is and whether it was withdrawn
        names = rng.sample(list(before), min(len(before), 3))
        first = answer_message(memory_targets.memory(start - 1), f"What do you know about me and {names[0]}?")
        messages = [system, *chat(first, f"Remembered: {before[names[0]]}")]
        for name in names[1:]:
            messages += chat(f"What do you know about me and {name}?", f"Remembered: {before[name]}")
        return messages
    chunk = [message for conversation in conversations[start:stop] for message in conversation.messages]
    return [system, *chunk, *chat(update_message(memory_targets.memory(start - 1)), after or EMPTY)]
