"""What a metric sees: the rollouts of one step, on all ranks.

Invariant: nothing here is scored or read again; a step is made from rollouts that have their rewards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reward import Reading


@dataclass(frozen=True)
class Answer:
    """A completion that answers a question.

    Attributes:
        tokens: Its length.
        ended: Whether it ended by itself; False if it was cut off.
        scores: {reward function: what it gave; NaN: not scored}.
        blind: Whether the question was asked without its history, or with an empty memory.
        kind: The kind of the question; "" if its dataset has no kinds.
        gold: The gold letter; "" for an open-ended question.
        options: The number of options.
        reading: How the letter and the words were read; None if letters do not matter: the question has no
            options, or no reward can take `answer`.
    """

    tokens: int = 0
    ended: bool = True
    scores: Mapping[str, float] = field(default_factory=dict)
    blind: bool = False
    kind: str = ""
    gold: str = ""
    options: int = 0
    reading: Reading | None = None


@dataclass(frozen=True)
class Update:
    """An update of a memory: its length in tokens, and why it was not kept."""

    tokens: int
    cut: bool
    empty: bool


@dataclass(frozen=True)
class Trajectory:
    """One rollout.

    Attributes:
        answers: Its answers; one if the policy reads whole histories.
        reward: Its reward, with the bonus; NaN: not scored.
        bonus: What the rewards of memories added.
        blind: Whether the policy did not get to see the history.
        updates: Those of its memory.
        memory_tokens: Length of its memory; None if it has none, because the policy reads whole histories.
    """

    answers: Sequence[Answer] = ()
    reward: float = math.nan
    bonus: float = 0.0
    blind: bool = False
    updates: Sequence[Update] = ()
    memory_tokens: int | None = None


@dataclass(frozen=True)
class Step:
    """All rollouts of a step; those of a group compete with one another."""

    groups: Sequence[Sequence[Trajectory]]

    @property
    def trajectories(self) -> list[Trajectory]:
        """All rollouts."""
        return [trajectory for group in self.groups for trajectory in group]

    @property
    def memories(self) -> list[Trajectory]:
        """Rollouts that wrote a memory of a history that they got to see."""
        return [t for t in self.trajectories if t.memory_tokens is not None and not t.blind]

    @property
    def updates(self) -> list[Update]:
        """All updates of memories."""
        return [update for trajectory in self.trajectories for update in trajectory.updates]

    @property
    def answers(self) -> list[Answer]:
        """All answers."""
        return [answer for trajectory in self.trajectories for answer in trajectory.answers]


def mean(values: Sequence[float]) -> float:
    """Computes the mean of the numbers that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def deviation(values: Sequence[float]) -> float:
    """Computes the deviation (n - 1) of the numbers that are not NaN; 0 if there are fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return 0.0
    middle = mean(known)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in known) / (len(known) - 1))
