"""What writing memories took: tokens, rounds and seconds, in one line for people.

Invariant: only what this process has done is counted; a resumed run counts what it adds.
"""

import time
from collections.abc import Sequence

from rft.screen import counted


class Throughput:
    """Counts the rounds in which memories are written, from its creation on.

    Args:
        histories: number of histories to read.
        width: maximum number of histories in a round.

    Attributes:
        rounds: rounds so far; each updates the memories of some histories.
        updates: updates so far.
        read: tokens of the update prompts.
        written: tokens of the completions.
    """

    def __init__(self, histories: int, width: int):
        self.histories, self.width = histories, min(width, histories)
        self.rounds = self.updates = self.read = self.written = 0
        self._start = time.perf_counter()

    def add(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> None:
        """Counts one round, given the token ids of its prompts and completions."""
        self.rounds += 1
        self.updates += len(prompts)
        self.read += sum(map(len, prompts))
        self.written += sum(map(len, completions))

    @property
    def fill(self) -> float:
        """Updates as a share of those that full rounds would have had; 1 if nothing had to be read."""
        return self.updates / (self.rounds * self.width) if self.rounds else 1.0

    def line(self) -> str:
        """The counts so far, the time, and tokens (read and written) per second."""
        seconds = time.perf_counter() - self._start
        return (
            f"memories: {counted(self.histories, 'history')}, {counted(self.updates, 'update')} in"
            f" {counted(self.rounds, 'round')} of"
            f" up to {self.width} ({self.fill:.0%} full); {self.read:,} tokens read, {self.written:,} written"
            f" in {seconds:,.1f} s: {(self.read + self.written) / seconds:,.0f} tokens/s"
        )
