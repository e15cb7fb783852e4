"""The two sides of the loop: the arm, which knows what is asked, and the policy, which answers and learns.

Invariant: an arm knows no model; the policy knows neither questions nor memories.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from torch import Tensor
from torch.utils.data import Sampler

from rft.data.question import Question
from rft.train.advantages import Contest
from rft.train.micro_batch import MicroBatch, Part
from rft.train.rollout import Completion, Rollout

T = TypeVar("T")


class Policy(Protocol):
    """The model in training (`rft.train.trl.PolicyTrainer`, where each method is described). All ranks call a
    method together."""

    state: Any

    @property
    def ends(self) -> Sequence[int]: ...
    @property
    def step(self) -> int: ...
    def gather(self, values: list[Any]) -> list[Any]: ...
    def once(self, make: Callable[[], T]) -> T: ...
    def complete(self, prompts: Sequence[list[int]], longest: int) -> list[Completion]: ...
    def decode(self, completions: Sequence[list[int]]) -> list[str]: ...
    def logps(self, batch: MicroBatch, reference: bool = False) -> Tensor: ...
    def loss(self, model: Any, part: Part) -> Tensor: ...
    def backward(self, loss: Tensor) -> None: ...
    def before_the_last_part(self, model: Any) -> AbstractContextManager[None]: ...
    def record(self, name: str, value: float, registered: bool = True) -> None: ...
    def count_tokens(self, tokens: int) -> None: ...
    def show(self, table: Mapping[str, Any]) -> None: ...


class Arm(Protocol):
    """A way to put questions about histories to the policy: `HistoryArm` or `MemoryArm`.

    Rollouts that compete with one another are neighbours: `num_generations` of them are a group.

    Attributes:
        keeps_flat_turns: Whether turns with an advantage of 0 stay in the batch.
    """

    keeps_flat_turns: bool

    def sampler(self, dataset: Any) -> Sampler[int]:
        """Returns the order in which units are drawn."""
        ...

    def asked(self, unit: Mapping[str, Any]) -> list[Question]:
        """Returns the questions of a unit."""
        ...

    def roll_out(self, units: Sequence[Mapping[str, Any]], policy: Policy) -> list[Rollout]:
        """Makes a rollout for every drawn unit; sets weight and share of its turns."""
        ...

    def contests(
        self, rollouts: Sequence[Rollout], weights: Sequence[float], memory_weights: Sequence[float]
    ) -> list[Contest]:
        """Returns what competes with what, by the scores; the weights are those of the reward functions of
        answers and of memories."""
        ...

    def table(self, rollouts: Sequence[Rollout], names: Sequence[str]) -> dict[str, Any]:
        """Returns rows of the table of completions as columns; `names` are those of the reward functions."""
        ...
