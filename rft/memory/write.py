"""Writing memories: reads the chunks of each history in order, several histories in parallel, and stores
every update.

Invariant: an interrupted and resumed run ends with the same memories as an uninterrupted one (at temperature
0). A chunk whose update is stored is never read again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rft.data.history import History
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.memory.chunks import Chunk
from rft.memory.store import MemoryStore
from rft.memory.text import Update

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""(prompts, maximum completion length) -> completions, all as token ids."""


@dataclass(frozen=True)
class Proposal:
    """The result of an update, and the number of input and output tokens (None: unknown)."""

    update: Update
    input_tokens: int | None
    output_tokens: int | None


Propose = Callable[[Sequence[Chunk], Sequence[str]], Sequence[Proposal]]
"""(chunks, the memory before each) -> one proposal per chunk."""


class Agent(Protocol):
    """Common interface of `MemoryAgent` (with a tokenizer) and `EndpointAgent` (behind a URL)."""

    settings: MemorySettings

    def chunks(self, history: History) -> list[Chunk]: ...

    def count(self, memory: str) -> int: ...


@dataclass(frozen=True)
class Turn:
    """One stored update.

    Attributes:
        history: the full history.
        chunk: the chunk that was read.
        number: number of the chunk, from 1.
        of: number of chunks of the history.
        before: the memory before the update.
        update: the result of the update.
    """

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
    """Same as `turns`, for a model that generates token ids."""
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
    """Reads the unread chunks of each history into its store, one chunk of every history at a time.

    Yields:
        Each update after it is stored.

    Raises:
        DataError: same as the stores; if a history does not match its store, before anything is generated.
    """
    budget = agent.settings.memory_tokens
    chunks = [agent.chunks(history) for history in histories]
    places = [store.unread(of) for store, of in zip(stores, chunks, strict=True)]
    memories = [store.read(budget, agent.count) for store in stores]
    while todo := [i for i in range(len(histories)) if places[i] < len(chunks[i])]:
        proposals = propose([chunks[i][places[i]] for i in todo], [memories[i] for i in todo])
        for i, proposal in zip(todo, proposals, strict=True):
            chunk, before, last = chunks[i][places[i]], memories[i], places[i] + 1 == len(chunks[i])
            stores[i].append(
                places[i], chunk, proposal.update, proposal.input_tokens, proposal.output_tokens, last
            )
            places[i], memories[i] = places[i] + 1, proposal.update.memory
            yield Turn(histories[i], chunk, places[i], len(chunks[i]), before, proposal.update)
