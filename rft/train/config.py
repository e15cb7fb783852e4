"""Recipe fields that every training has in addition to its trainer's own: guards of a run, and what may
change on resume."""

import logging
from dataclasses import dataclass

from rft.errors import RecipeError
from rft.train.help import recipe_field

logger = logging.getLogger(__name__)


@dataclass
class RunConfig:
    """Dry run, monitoring, resume and memory use.

    A mixin; list it before a TrainingArguments class.
    """

    dry_run: bool = recipe_field(
        False,
        "Print the resolved recipe, the batch in words and the memory that a process needs, and do not"
        " train. Exit code 1 if the run does not fit.",
    )
    dry_run_on: str | None = recipe_field(
        None, "Machine of the dry run, if not this one: LAYOUT:PROCESSES:GIB, such as zero3:8:80."
    )
    allow_change: list[str] = recipe_field(
        [], "Fields in which this run may differ from the resumed checkpoint; data_sha256: other data."
    )
    stall_minutes: float = recipe_field(
        60.0,
        "Minutes without progress (no micro-batch and no checkpoint finishes) after which a process prints"
        " its rank and its stack traces and ends the run; 0: no limit.",
    )
    muon: bool = recipe_field(
        False,
        "Train the matrices of the hidden layers with Muon and all other weights with AdamW (replaces"
        " `optim`); not supported under DeepSpeed or FSDP.",
    )
    mlp_tile_tokens: int | None = recipe_field(
        None,
        "Tokens that an MLP processes at a time and recomputes in the backward pass. Same numbers; Qwen3-4B"
        " at 128k needs 8 GiB less with 16384, for 1% of an update's time (by analysis).",
    )
    offload_checkpoints: bool = recipe_field(
        False,
        "Keep the inputs of checkpointed layers in pinned host memory: Qwen3-4B at 128k needs 25 GiB less on"
        " the GPU, 36 GiB on the host and a second more per update (by analysis).",
    )
    keep_attention: bool = recipe_field(
        False,
        "Keep each layer's attention over histories of 4,096 tokens or more; needs gradient_checkpointing."
        " Qwen3-4B on an H200 at 32k: 14% less time per update for 15 GiB (by analysis).",
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        if self.mlp_tile_tokens is not None and self.mlp_tile_tokens < 1:
            raise RecipeError(
                f"mlp_tile_tokens {self.mlp_tile_tokens}: expected 1 or more; remove the field to turn"
                " tiling off"
            )
        if self.offload_checkpoints and not self.gradient_checkpointing:  # type: ignore[attr-defined]
            raise RecipeError(
                "offload_checkpoints: needs activation checkpoints; set `gradient_checkpointing: true`"
            )
        if self.keep_attention and not self.gradient_checkpointing:  # type: ignore[attr-defined]
            raise RecipeError(
                "keep_attention: without activation checkpoints everything is kept; remove the field, or set"
                " `gradient_checkpointing: true`"
            )
        if self.keep_attention and (self.gradient_checkpointing_kwargs or {}).get("use_reentrant"):  # type: ignore[attr-defined]
            raise RecipeError(
                "keep_attention: needs gradient_checkpointing_kwargs {use_reentrant: false}, which is the"
                " default; remove use_reentrant"
            )
        self._warn_of_a_decay_longer_than_the_run()

    def _warn_of_a_decay_longer_than_the_run(self) -> None:
        """transformers would start such a decay before the first step."""
        steps, kwargs = self.max_steps, self.lr_scheduler_kwargs or {}  # type: ignore[attr-defined]
        decay, warmup = kwargs.get("num_decay_steps", 0), self.get_warmup_steps(steps)  # type: ignore[attr-defined]
        if steps > 0 and decay + warmup > steps and self.process_index == 0:  # type: ignore[attr-defined]
            both = f"warmup_steps {warmup} and num_decay_steps {decay} are together"
            logger.warning(
                "%s more than max_steps %d: learning_rate is never reached; lower %s, unless this is a trial",
                both if decay else f"warmup_steps {warmup} is",
                steps,
                "them" if decay else "it",
            )
