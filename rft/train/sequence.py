"""Sequence parallelism in training: `sequence_parallel: N` makes N neighbouring processes one group, which
trains the same rows and shares out their tokens.

    processes   0 1 | 2 3        N = 2: two groups, as two processes without it
    rows        a a | b b        every process of a group draws, rolls out and trains the group's rows

What happens once per group, and not once per process: the processes of the group share a rollout
(`rft.prefix_tree.shared_rollout`; with vLLM, each asks for a share of the rows and hands it to the others,
`shared_out`), and the first process alone calls the rewards (`once`). Advantages, metrics and the divisor of
a loss are computed from the first process of every group (`gather`). The forward pass over a tree is shared
out by `rft.prefix_tree.sequence_parallel`.

Invariant: the gradients are those of as many processes as there are groups, without sequence parallelism.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate.utils import gather_object
from transformers import Trainer

from rft.errors import RecipeError
from rft.plan.dry_run import config_of
from rft.plan.machine import machine
from rft.screen import counted
from rft.train.help import recipe_field

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class SequenceConfig:
    """One history over several processes.

    A mixin; list it before a TrainingArguments class.
    """

    sequence_parallel: int = recipe_field(
        1,
        "Number N of processes that train the same rows together, each with 1/N of a tree's tokens and of"
        " the query heads (Ulysses). Batch sizes then count rows per group of N.",
    )

    @property
    def data_ranks(self) -> int:
        """Number of groups of `sequence_parallel` processes; each group has rows of its own."""
        return self.groups_of(self.world_size)  # type: ignore[attr-defined]

    @property
    def data_rank(self) -> int:
        """This process's group."""
        return self.process_index // self.sequence_parallel  # type: ignore[attr-defined]

    def groups_of(self, processes: int) -> int:
        """Returns the number of groups of so many processes."""
        return max(1, processes // self.sequence_parallel)

    def over_processes(self, processes: int | None = None) -> str:
        """Says over how many processes a batch is spread; by default those of this run."""
        count, size = processes or self.world_size, self.sequence_parallel  # type: ignore[attr-defined]
        if size == 1:
            return counted(count, "process")
        groups = self.groups_of(count)
        return f"{counted(groups, 'group')} of {size} processes (sequence_parallel)"

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        if self.sequence_parallel < 1:
            raise RecipeError(f"sequence_parallel {self.sequence_parallel}: expected 1 or more")


class SequenceMixin(Trainer):
    """Mixin before a trainer: processes of a group get the same rows."""

    args: Any
    sequence: Any = None
    """This process's group; None if it trains its rows alone."""

    def create_accelerator_and_postprocess(self) -> None:
        """Makes the groups; all processes do so together."""
        super().create_accelerator_and_postprocess()
        if self.args.sequence_parallel > 1:
            self.sequence, _ = dist.new_subgroups(self.args.sequence_parallel)
            if self.args.process_index == 0:
                logger.info("tokens are spread over %s", self.args.over_processes())

    def get_train_dataloader(self) -> Any:
        """Gives the processes of a group the same rows."""
        loader: Any = super().get_train_dataloader()
        if self.sequence is not None:
            shard = loader.batch_sampler  # accelerate's BatchSamplerShard
            shard.num_processes, shard.process_index = self.args.data_ranks, self.args.data_rank
        return loader

    def gather(self, values: list[Any]) -> list[Any]:
        """Concatenates the lists of all groups; all processes call it together."""
        of_ranks = gather_object([values])
        return [value for of_rank in of_ranks[:: self.args.sequence_parallel] for value in of_rank]

    def once(self, make: Callable[[], T]) -> T:
        """Calls a function in the first process of the group, and returns its result in all of them.

        Raises:
            Exception: What the function raised, in all processes of the group.
        """
        if self.sequence is None:
            return make()
        made: list[Any] = [None, None]
        if dist.get_rank(self.sequence) == 0:
            try:
                made[0] = make()
            except Exception as error:
                made[1] = error
        dist.broadcast_object_list(made, group=self.sequence, group_src=0)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def shared_out(self, items: list[Any], make: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """Applies a function to this process's share of a list, and returns the results of all shares, in the
        order of the list."""
        if self.sequence is None:
            return make(items)
        rank, ranks = dist.get_rank(self.sequence), dist.get_world_size(self.sequence)
        of_ranks: list[Any] = [None] * ranks
        mine = items[len(items) * rank // ranks : len(items) * (rank + 1) // ranks]
        dist.all_gather_object(of_ranks, make(mine), group=self.sequence)
        return [made for of_rank in of_ranks for made in of_rank]


def check_sequence_parallel(args: Any, model: Any) -> None:
    """Checks that `sequence_parallel` divides the processes and the query heads.

    Args:
        args: Fields of the recipe.
        model: The model arguments.

    Raises:
        RecipeError: If it does not; names the numbers that do.
    """
    size = args.sequence_parallel
    if size == 1:
        return
    processes, heads = machine(args)[0].processes, config_of(model).get_text_config().num_attention_heads
    fitting = [n for n in range(1, min(processes, heads) + 1) if not processes % n and not heads % n]
    if size not in fitting:
        raise RecipeError(
            f"sequence_parallel {size}: it must divide the {counted(processes, 'process')} of"
            f" this run and the model's {heads} query heads; {_either(fitting)} would do"
        )


def _either(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
