"""Fields of a memory GRPO recipe, and its batch arithmetic in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rft.errors import RecipeError
from rft.screen import counted
from rft.train.grpo_config import LoopConfig
from rft.train.help import recipe_field

WEIGHTINGS = ("token", "turn", "trajectory")
TURN_MEANS = ("grpo", "sapo")  # losses that give every turn the same weight, whatever its tokens weigh


@dataclass
class MemoryGRPOConfig(LoopConfig):
    """Fields of memory GRPO. `num_generations` is the number of memories per history, `max_completion_length`
    the maximum tokens per answer; batch sizes count memories."""

    unit_fields: ClassVar = ("num_generations",)
    rollout_name: ClassVar = "memories"

    answers_per_memory: int = recipe_field(
        1,
        "Answers per question from each memory; from 2 on, they are compared with one another, not across"
        " memories.",
    )
    turn_weighting: str = recipe_field(
        "token", "Unit that has the same weight in the loss: a token, a turn or a trajectory.", WEIGHTINGS
    )
    memory_rewards: list[str] = recipe_field(
        [],
        "Rewards of the memory itself, such as reward.memory.within_budget, added to the reward of its"
        " answers.",
    )
    memory_reward_weights: list[float] | None = recipe_field(None, "Weights of memory_rewards. null: 1 each.")

    def __post_init__(self) -> None:
        super().__post_init__()
        weighting, loss = self.turn_weighting, self.loss_type
        if weighting not in WEIGHTINGS:
            raise RecipeError(
                f"turn_weighting {weighting}: memory GRPO supports only {', '.join(WEIGHTINGS)}"
            )
        if loss in TURN_MEANS and weighting == "token":
            raise RecipeError(
                f"loss_type {loss}: a mean over turns, which gives every turn the same weight; set"
                " `turn_weighting: turn` or `trajectory`, or take dapo or cispo"
            )
        if (loss == "vespo" and weighting != "token") or (
            self.importance_sampling_level == "sequence" and weighting == "trajectory"
        ):
            refused = "loss_type vespo" if loss == "vespo" else "importance_sampling_level sequence"
            raise RecipeError(
                f"{refused}: the ratio of a turn cannot be taken under `turn_weighting: {weighting}`; set"
                " `turn_weighting: token`, or take another loss"
            )
        if self.answers_per_memory < 1:
            raise RecipeError(f"answers_per_memory {self.answers_per_memory}: expected 1 or more")
        weights = self.memory_reward_weights
        if weights is not None and len(weights) != len(self.memory_rewards):
            raise RecipeError(
                f"memory_reward_weights has {len(weights)} numbers for {len(self.memory_rewards)}"
                " memory_rewards; give one weight per reward"
            )

    def arithmetic(self, processes: int | None = None) -> str:
        """Describes the batch in words, over `processes` processes or those of this run."""
        processes = processes or self.world_size
        histories, memories = self.units_per_generation(processes), self.num_generations
        several = self.answers_per_memory > 1
        against = "the other answers of its memory" if several else "the answers of the other memories"
        return (
            f"a generation batch: {histories} histories x {memories} memories = {histories * memories}"
            f" trajectories, each of which answers up to {self.questions_per_history} questions x"
            f" {self.answers_per_memory}; for {self.optimizer_steps:g} optimizer"
            f" step{'s' * (self.optimizer_steps != 1)}, in"
            f" {counted(self.steps_per_generation, 'micro-batch')} of {self.per_device_train_batch_size}"
            f" trajectories per {'group' if self.sequence_parallel > 1 else 'process'}, over"
            f" {self.over_processes(processes)}. An update is"
            f" compared with the {memories} memories of its history, an answer to a question with {against};"
            f" every {self.turn_weighting} has the same weight"
        )

    def in_words(self, chunks: Sequence[int], units: int, processes: int | None = None) -> str:
        """Describes a generation on this dataset in words.

        Args:
            chunks: Number of chunks of each history.
            units: Number of units (a history with the questions that one memory answers).
            processes: Number of ranks; by default those of this run.
        """
        histories = self.units_per_generation(processes)
        memories, median = histories * self.num_generations, sorted(chunks)[len(chunks) // 2]
        answers = memories * self.questions_per_history * self.answers_per_memory
        return (
            f"a history has {min(chunks)} to {max(chunks)} chunks (median {median}), so a generation has"
            f" about {memories * median} updates and {answers} answers: about {memories * median + answers}"
            f" rows; {units} units make an epoch of {units // histories} generations"
        )
