"""Writing memories: each history's chunks in order, several histories side by side, every turn stored before the next.

Invariant: a run that is stopped and started again ends with the memories of one that was not (at temperature 0), and no chunk
that is stored is read again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rft.data.history import History
from rft.memory.agent import MemoryAgent
from rft.memory.chunks import Chunk
from rft.memory.store import MemoryStore
from rft.memory.text import Update

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""(prompts, longest completion) -> completions, all as token ids."""


@dataclass(frozen=True)
class Proposal:
    """What came of an update, and the tokens read and written for it (None: not given)."""

    update: Update
    input_tokens: int | None
    output_tokens: int | None


Propose = Callable[[Sequence[Chunk], Sequence[str]], Sequence[Proposal]]
"""(chunks, the memory before each) -> what becomes of each."""


class Agent(Protocol):
    """What both agents have in common: the one with a tokenizer, and the one behind a URL."""

    settings: Any

    def chunks(self, history: History) -> list[Chunk]: ...

    def count(self, memory: str) -> int: ...


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
    """As `turns`, by a model that generates token ids."""
    budget = agent.settings.memory_tokens

    def propose(chunks: Sequence[Chunk], memories: Sequence[str]) -> list[Proposal]:
        prompts = [agent.update_ids(chunk, memory) for chunk, memory in zip(chunks, memories, strict=True)]
        completions = generate(prompts, budget)
        return [
            Proposal(agent.accept(completion, memory, end_ids), len(prompt), len(completion))
            for prompt, completion, memory in zip(prompts, completions, memories, strict=True)
        ]

    return turns(agent, propose, histories, stores)


def turns(
    agent: Agent, propose: Propose, histories: Sequence[History], stores: Sequence[MemoryStore]
) -> Iterator[Turn]:
    """Read what each history has unread into its store, all of them a chunk at a time; yields each turn once it is stored.

    Raises DataError as the stores do, before anything is generated for a history that does not fit its store.
    """
    budget = agent.settings.memory_tokens
    chunks = [agent.chunks(history) for history in histories]
    places = [store.unread(of) for store, of in zip(stores, chunks, strict=True)]
    memories = [store.read(budget, agent.count) for store in stores]
    while todo := [i for i in range(len(histories)) if places[i] < len(chunks[i])]:
        proposals = propose([chunks[i][places[i]] for i in todo], [memories[i] for i in todo])
        for i, found in zip(todo, proposals, strict=True):
            chunk, before, last = chunks[i][places[i]], memories[i], places[i] + 1 == len(chunks[i])
            stores[i].append(places[i], chunk, found.update, found.input_tokens, found.output_tokens, last)
            places[i], memories[i] = places[i] + 1, found.update.memory
            yield Turn(histories[i], chunk, places[i], len(chunks[i]), before, found.update)
