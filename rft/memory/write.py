"""Writing memories: reads the chunks of each history in order, several histories in parallel, and stores
every update.

Invariant: an interrupted and resumed run ends with the same memories as an uninterrupted one (at temperature
0). A chunk whose update is stored is never read again. As long as histories wait, every round reads a chunk
of as many histories as there is room for: one that is finished makes room for the next.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rft.data.history import History
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.memory.chunks import Chunk
from rft.memory.store import MemoryStore, read_memory
from rft.memory.text import Proposal, Update

Generate = Callable[[list[list[int]], int], list[list[int]]]
"""(prompts, maximum completion length) -> completions, all as token ids."""


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
    histories: Iterable[tuple[History, MemoryStore]],
    width: int = 1,
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

    return turns(agent, propose, histories, width)


def turns(
    agent: Agent, propose: Propose, histories: Iterable[tuple[History, MemoryStore]], width: int = 1
) -> Iterator[Turn]:
    """Reads the unread chunks of each history into its store, in rounds of one chunk each.

    Args:
        agent: cuts histories into chunks.
        propose: makes the updates of a round.
        histories: each history with its open store. A pair is taken when there is room for it, and its store
            is closed when its history is read or an error ends the reading.
        width: maximum number of histories in a round.

    Yields:
        Each update after it is stored.

    Raises:
        DataError: same as the stores; if a history does not match its store, before anything of it is read.
    """
    waiting = iter(histories)
    reading: list[_Reading] = []
    try:
        while True:
            while len(reading) < width and (entering := next(waiting, None)) is not None:
                reading.append(_Reading(*entering))
                reading[-1].begin(agent)
                if reading[-1].finished:
                    reading.pop().store.close()
            if not reading:
                return
            proposals = propose([one.chunks[one.place] for one in reading], [one.memory for one in reading])
            for one, proposal in zip(reading, proposals, strict=True):
                yield one.store_update(proposal)
                if one.finished:
                    one.store.close()
            reading = [one for one in reading if not one.finished]
    finally:
        for one in reading:
            one.store.close()


class _Reading:
    """A history that is being read, its store, and the memory so far."""

    def __init__(self, history: History, store: MemoryStore):
        self.history, self.store = history, store

    def begin(self, agent: Agent) -> None:
        """Finds the first unread chunk and the memory before it."""
        self.chunks = agent.chunks(self.history)
        self.place = self.store.unread(self.chunks)
        self.memory = read_memory(self.store.path, agent.settings.memory_tokens, agent.count)

    @property
    def finished(self) -> bool:
        return self.place == len(self.chunks)

    def store_update(self, proposal: Proposal) -> Turn:
        """Stores the update of the next chunk, and moves on to the chunk after it."""
        chunk, before, update = self.chunks[self.place], self.memory, proposal.update
        last = self.place + 1 == len(self.chunks)
        self.store.append(self.place, chunk, proposal, last)
        self.place, self.memory = self.place + 1, update.memory
        return Turn(self.history, chunk, self.place, len(self.chunks), before, update)
