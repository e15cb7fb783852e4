"""Writing memories: each history's chunks in order, several histories side by side, every turn stored before the next.

Invariant: a run that is stopped and started again ends with the memories of one that was not (at temperature 0), and no chunk
that is stored is read again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rft.data.history import History
from rft.memory.agent import MemoryAgent
from rft.memory.chunks import Chunk
from rft.memory.store import MemoryStore
from rft.memory.text import Update

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""(prompts, longest completion) -> completions, all as token ids."""


@dataclass(frozen=True)
class Turn:
    """One update that was stored: chunk `number` (from 1) of `of`, the memory before and what came of it."""

    history: History
    chunk: Chunk
    number: int
    of: int
    before: str
    update: Update


def write(
    agent: MemoryAgent,
    generate: Generate,
    end_ids: Sequence[int],
    histories: Sequence[History],
    stores: Sequence[MemoryStore],
) -> Iterator[Turn]:
    """Read what each history has unread into its store, all of them a chunk at a time; yields each turn once it is stored.

    Raises DataError as the stores do, before anything is generated for a history that does not fit its store.
    """
    budget = agent.settings.memory_tokens
    chunks = [agent.chunks(history) for history in histories]
    places = [store.unread(of) for store, of in zip(stores, chunks, strict=True)]
    memories = [store.read(budget, agent.count) for store in stores]
    while todo := [i for i in range(len(histories)) if places[i] < len(chunks[i])]:
        prompts = [agent.update_ids(chunks[i][places[i]], memories[i]) for i in todo]
        completions = generate(prompts, budget)
        for i, prompt, completion in zip(todo, prompts, completions, strict=True):
            chunk, before = chunks[i][places[i]], memories[i]
            update = agent.accept(completion, before, end_ids)
            stores[i].append(places[i], chunk, update, len(prompt), len(completion), places[i] + 1 == len(chunks[i]))
            places[i], memories[i] = places[i] + 1, update.memory
            yield Turn(histories[i], chunk, places[i], len(chunks[i]), before, update)
