"""Fields of a GRPO recipe: those that every arm has, and those over histories; the checks that need no model.

Invariant: a field that the trainer cannot honor raises RecipeError before a model is loaded."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, ClassVar

from trl import GRPOConfig

import reward
from reward.mcq import GATES
from rft.errors import RecipeError
from rft.train.config import RunConfig
from rft.train.held_out import HeldOutConfig
from rft.train.help import recipe_field
from rft.train.sequence import SequenceConfig

# losses divided by the tokens of the complete batch: the losses of its parts add up
ADDITIVE = ("cispo", "dapo", "vespo")
ROW_MEANS = ("grpo", "sapo", "dr_grpo", "luspo")  # losses that are a mean over rows
NAMES = {  # what TRL knows, but looks at only in a loss
    "loss_type": (*ADDITIVE, *ROW_MEANS, "bnpo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
}


@dataclass
class LoopConfig(RunConfig, HeldOutConfig, SequenceConfig, GRPOConfig, ABC):
    """Fields of GRPO in both arms, in addition to TRL's GRPOConfig. Batch sizes count completions; in memory
    GRPO, memories."""

    unit_fields: ClassVar[tuple[str, ...]]  # their product is the number of rollouts in a unit
    rollout_name: ClassVar[str]  # what a batch size counts

    if TYPE_CHECKING:  # optional in a recipe; TRL's own checks have set them
        num_generations: int = 0
        steps_per_generation: int = 0
        generation_batch_size: int = 0
        max_completion_length: int = 0
        shuffle_dataset: bool = True
        gradient_checkpointing_kwargs: dict[str, Any] | None = None

    questions_per_history: int = recipe_field(
        4,
        "Questions of one history that are drawn together, each with num_generations completions or answered"
        " by num_generations memories.",
    )
    rewards: list[str] = recipe_field(
        ["reward.personamem"],
        "Reward functions, as package.module.function or path/to/file.py:function; weighted by"
        " reward_weights.",
    )

    consistency_gate: str = recipe_field(
        "contradiction",
        "When reward.personamem gives 0 despite the gold letter. contradiction: if words of the answer or of"
        " the thought name another option. naming: also if the words of the answer do not name its option"
        " (for options of a few words). off: never.",
        GATES,
    )
    min_thought_words: int = recipe_field(
        3, "Fewest different words of a thought, without letters; below it reward.personamem gives 0."
    )
    reward_seconds: float = recipe_field(
        600.0,
        "Time limit of a reward over a rank's generation batch, in seconds; rows not scored in time are"
        " masked.",
    )
    blind_share: float = recipe_field(
        0.0,
        "Share of the histories whose questions are asked without the history, or with an empty memory, so"
        " that the blind baseline of an evaluation is fair.",
    )
    redraw_rounds: int = recipe_field(
        0,
        "Rounds in which groups whose completions all have the same reward are replaced by other questions"
        " of the history, or by those of another memory (DAPO's dynamic sampling).",
    )
    max_tree_tokens: int | None = recipe_field(
        None,
        "Maximum tokens of a tree that is forwarded at once; a larger micro-batch is split, between"
        " questions first.",
    )
    prefix_sharing: str = recipe_field(
        "on",
        "on: forward every token that rows share once, in training and in rollouts. off: row by row, as TRL"
        " does.",
        ["on", "off"],
    )

    open_ended_share: float = recipe_field(
        0.0,
        "Share of the questions asked without options, which a judge scores (0.2 in the paper). Needs"
        " judge_base_url and judge_model; the judge's API key is read from the environment variable"
        " OPENAI_API_KEY.",
    )
    judge_base_url: str | None = recipe_field(
        None, "OpenAI-compatible URL of the judge, such as http://localhost:8000/v1."
    )
    judge_model: str | None = recipe_field(None, "Name of the judge model at that URL.")

    def __post_init__(self) -> None:
        size = self.sequence_parallel
        if self.generation_batch_size is not None:
            self.generation_batch_size *= size  # TRL divides it by the processes, not by their groups
        super().__post_init__()
        self.generation_batch_size = (
            self.per_device_train_batch_size * self.steps_per_generation * self.data_ranks
        )
        if size > 1:
            self._check_sequence_parallel()
        for key, names in NAMES.items():
            if getattr(self, key) not in names:
                raise RecipeError(f"{key} {getattr(self, key)}: expected one of {', '.join(names)}")
        if self.min_thought_words < 1:
            raise RecipeError(
                f"min_thought_words {self.min_thought_words}: expected 1 or more; 1 accepts any thought"
            )
        if not 0 <= self.open_ended_share <= 1:
            raise RecipeError(f"open_ended_share {self.open_ended_share}: expected a share from 0 to 1")
        if self.open_ended_share and not (self.judge_base_url and self.judge_model):
            raise RecipeError(
                f"open_ended_share {self.open_ended_share}: open-ended answers need a judge; set"
                " judge_base_url and judge_model"
            )
        if self.held_out_split and self.prefix_sharing != "on":
            raise RecipeError(
                "held_out_split: answers during training need `prefix_sharing: on`; remove held_out_split and"
                " evaluate the checkpoints"
            )
        if self.prefix_sharing not in ("on", "off"):
            raise RecipeError(f"prefix_sharing {self.prefix_sharing!r}: expected on or off")
        if self.prefix_sharing == "on" and not self.use_vllm:
            plain = {"repetition_penalty": 1.0, "generation_kwargs": None, "cache_implementation": None}
            for key, value in plain.items():
                if getattr(self, key) != value:
                    raise RecipeError(
                        f"{key} {getattr(self, key)}: shared rollouts support only temperature, top_p, top_k"
                        f" and min_p; remove {key}, or set `prefix_sharing: off`"
                    )
        if self.use_transformers_continuous_batching:
            raise RecipeError(
                "use_transformers_continuous_batching: TRL casts the policy to half precision for it, and its"
                " float32 masters would be lost; remove the field"
            )
        strategy = getattr(self.eval_strategy, "value", self.eval_strategy)
        if strategy != "no":
            raise RecipeError(
                f"eval_strategy {strategy}: set held_out_split instead, which asks questions during training"
            )
        count = len(self.rewards) + bool(self.open_ended_share)
        if self.reward_weights is not None and len(self.reward_weights) != count:
            raise RecipeError(
                f"reward_weights has {len(self.reward_weights)} numbers for {count} rewards; give one per"
                f" reward{', the last one for the judge' * bool(self.open_ended_share)}"
            )
        if not 0 <= self.blind_share < 1:
            raise RecipeError(f"blind_share {self.blind_share}: expected a share from 0 to below 1")
        if self.redraw_rounds < 0:
            raise RecipeError(f"redraw_rounds {self.redraw_rounds}: expected 0 (nothing is redrawn) or more")
        if self.max_tree_tokens is not None:
            self._check_split(self.max_tree_tokens)

    def _check_sequence_parallel(self) -> None:
        size = self.sequence_parallel
        if self.prefix_sharing == "off":
            raise RecipeError(
                f"sequence_parallel {size} spreads shared trees over processes; set `prefix_sharing: on`, or"
                " `sequence_parallel: 1`"
            )
        if self.use_vllm and self.vllm_mode == "colocate":
            raise RecipeError(
                f"sequence_parallel {size}: vLLM cannot share its processes (vllm_mode colocate); set"
                " `use_vllm: false` or `vllm_mode: server`, or `sequence_parallel: 1`"
            )
        if self.top_entropy_quantile < 1.0:
            raise RecipeError(
                f"sequence_parallel {size}: TRL takes top_entropy_quantile over all processes and would count"
                f" a token {size} times; remove top_entropy_quantile, or set `sequence_parallel: 1`"
            )

    def _check_split(self, max_tree_tokens: int) -> None:
        if self.prefix_sharing == "off":
            raise RecipeError("max_tree_tokens limits shared trees; remove it, or set `prefix_sharing: on`")
        if max_tree_tokens < 1:
            raise RecipeError(f"max_tree_tokens {max_tree_tokens}: expected 1 or more")
        if self.top_entropy_quantile < 1.0 or self.entropy_coef or self.use_adaptive_entropy:
            raise RecipeError(
                "max_tree_tokens splits a micro-batch, but top_entropy_quantile and the entropy bonus need"
                " all of it at once; remove one of them, or lower per_device_train_batch_size instead"
            )

    def reward_functions(self) -> list[Callable[..., Any]]:
        """Loads the functions that `rewards` names, and passes the gate settings to those that take them.

        Raises:
            RecipeError: If a name cannot be loaded.
        """
        try:
            return [self._with_gates(reward.load(name)) for name in self.rewards]
        except ValueError as error:
            raise RecipeError(str(error)) from None

    def _with_gates(self, function: Callable[..., Any]) -> Callable[..., Any]:
        settings = {"consistency_gate": self.consistency_gate, "min_thought_words": self.min_thought_words}
        taken = {
            name: value for name, value in settings.items() if name in inspect.signature(function).parameters
        }
        return update_wrapper(partial(function, **taken), function) if taken else function

    def units_per_generation(self, processes: int | None = None) -> int:
        """Returns the number of units (rollouts that stay on one rank) in a generation batch over all ranks.

        Args:
            processes: Number of processes; by default those of this run.

        Raises:
            RecipeError: If a rank's share of a generation batch does not contain complete units.
        """
        unit = math.prod(getattr(self, name) for name in self.unit_fields)
        share = self.per_device_train_batch_size * self.steps_per_generation
        if share % unit:
            whole = max(unit, round(share / unit) * unit)
            product = " x ".join(f"{name} {getattr(self, name)}" for name in self.unit_fields)
            product += f" = {unit}" if len(self.unit_fields) > 1 else ""
            raise RecipeError(
                f"per_device_train_batch_size {self.per_device_train_batch_size} x steps_per_generation"
                f" {self.steps_per_generation} = {share} {self.rollout_name} per rank, which is not a"
                f" multiple of {product}; make the product {whole}, so that a history stays on one rank"
            )
        return share * self.groups_of(processes or self.world_size) // unit

    @property
    def optimizer_steps(self) -> float:
        """Optimizer steps per generation batch."""
        return self.num_iterations * self.steps_per_generation / self.gradient_accumulation_steps

    @abstractmethod
    def arithmetic(self) -> str:
        """Describes the batch in words."""


@dataclass
class HistoryGRPOConfig(LoopConfig):
    """Fields of GRPO over histories."""

    unit_fields: ClassVar = ("questions_per_history", "num_generations")
    rollout_name: ClassVar = "completions"

    def arithmetic(self) -> str:
        """Describes the batch in words."""
        units, questions = self.units_per_generation(), self.questions_per_history
        return (
            f"a generation batch: {units} histories x {questions} questions x {self.num_generations}"
            f" completions = {units * questions * self.num_generations} completions, for"
            f" {self.optimizer_steps:g} optimizer step{'s' * (self.optimizer_steps != 1)}, over"
            f" {self.over_processes()}"
        )
