"""The recipe fields that every training has beside its trainer's own: how a run is guarded, and what may change in a resume."""

import logging
from dataclasses import dataclass, field

from rft.errors import RecipeError

logger = logging.getLogger(__name__)


@dataclass
class RunConfig:
    """How a run is tried out, watched and resumed, and how its memory is spared.

    Mixed in before a TrainingArguments class.
    """

    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Print the resolved recipe, the batch in words and the memory a process needs, and train nothing. Exit "
            "code 1 where it does not fit."
        },
    )
    dry_run_on: str | None = field(
        default=None, metadata={"help": "A machine other than this to dry-run for: LAYOUT:PROCESSES:GIB such as zero3:8:80."}
    )
    allow_change: list[str] = field(
        default_factory=list,
        metadata={"help": "Fields in which this run may differ from the checkpoint it resumes; data_sha256 for the data."},
    )
    stall_minutes: float = field(
        default=60.0,
        metadata={
            "help": "A process in which nothing happens for so long (no micro-batch and no checkpoint ends) names its rank, "
            "prints its stacks and ends the run; 0 waits for ever."
        },
    )
    muon: bool = field(
        default=False,
        metadata={
            "help": "Train the matrices of the hidden layers with Muon, all else with AdamW (replaces `optim`); not under "
            "DeepSpeed or FSDP."
        },
    )
    mlp_tile_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Compute the MLPs this many tokens at a time, and once more in the backward pass: the same numbers in less "
            "memory (Qwen3-4B at 128k: 8 GiB less with 16384), for 3% of an update's time at 32k and 1% at 128k (by analysis)."
        },
    )
    offload_checkpoints: bool = field(
        default=False,
        metadata={
            "help": "Keep the inputs of checkpointed layers in pinned host memory; needs gradient_checkpointing. At 128k "
            "Qwen3-4B takes 25 GiB less of the GPU and 36 GiB of the host, for about a second of an update's time (by analysis)."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        if self.mlp_tile_tokens is not None and self.mlp_tile_tokens < 1:
            raise RecipeError(f"mlp_tile_tokens {self.mlp_tile_tokens}: expected at least one token; remove it for whole MLPs")
        if self.offload_checkpoints and not self.gradient_checkpointing:  # type: ignore[attr-defined]
            raise RecipeError("offload_checkpoints: there are no checkpoints without `gradient_checkpointing: true`; set it")
        self._warn_of_a_decay_longer_than_the_run()

    def _warn_of_a_decay_longer_than_the_run(self) -> None:
        """transformers starts such a decay before the first step."""
        steps, kwargs = self.max_steps, self.lr_scheduler_kwargs or {}  # type: ignore[attr-defined]
        decay = kwargs.get("num_decay_steps", 0)
        if steps > 0 and decay + self.get_warmup_steps(steps) > steps:  # type: ignore[attr-defined]
            logger.warning(
                "lr_scheduler_kwargs: num_decay_steps %d and the warm-up are longer than max_steps %d: learning_rate is never "
                "reached; give fewer num_decay_steps", decay, steps,
            )  # fmt: skip
