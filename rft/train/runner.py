"""Common parts of the training scripts: logging, loading the policy, guarding the run.

A user's mistake gives one line on stderr and exit code 2, not a traceback. An interrupted run ends with exit
code 75.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback
from transformers.integrations import WandbCallback
from transformers.utils import logging as transformers_logging
from trl import ModelConfig, get_peft_config

from rft.errors import Interrupted, RecipeError, RftError, told
from rft.launch import allocator
from rft.models.loading import load_model
from rft.plan.dry_run import DryRun
from rft.runs.checkpoint import RecallCallback, resume_point
from rft.runs.extension_locks import warn_of_old_locks
from rft.runs.failfast import DiskCallback, StallCallback, lock_output
from rft.runs.preemption import EXIT_CODE, StopCallback
from rft.runs.progress import RichProgress
from rft.runs.run_spec import RunSpec
from rft.runs.tracking import MetricsFile, ProvenanceCallback, WandbRun, provenance
from rft.screen import leave_out, leave_out_noise
from rft.train.activations import keep_attention, offload_checkpoints, tile_mlps
from rft.train.early_signs import EarlySigns
from rft.train.malloc import ReturnFreedMemory, keep_freed_memory

logger = logging.getLogger(__name__)

OTHERS_WAIT = 10.0  # seconds that ranks other than 0 wait before they print an error


def set_up_logging() -> None:
    """Sets up logging: rft at INFO on rank 0, everything else at WARNING.

    A script run with `python -m` logs as `__main__`. Known harmless warnings are left out, matched by their
    text.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("rft", "__main__"):
        logging.getLogger(name).setLevel(
            logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
        )
    leave_out_noise()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")  # harmless: pinning does not apply to a CPU
    for old in (
        "gradient_checkpointing",
        "gradient_checkpointing_enable",
        "gradient_checkpointing_disable",
        "is_gradient_checkpointing",
        "all_gather_into_tensor",
        "reduce_scatter_tensor",
    ):  # TRL 1.16 and DeepSpeed still use these names
        warnings.filterwarnings("ignore", message=rf".*{old}. is deprecated.*")


def run_main(train: Callable[..., Any], argv: Sequence[str] | None = None) -> int:
    """Runs a training script's `train(argv)` and returns the exit code."""
    set_up_logging()
    # read when the first CUDA tensor is created
    os.environ.update(allocator(sys.argv[1:] if argv is None else argv))
    warn_of_old_locks()
    try:
        train(argv)
    except (RftError, OSError) as error:
        if (message := told(error)) is None:
            raise
        if os.environ.get("RANK", "0") != "0":
            time.sleep(OTHERS_WAIT)  # the launcher ends this process if rank 0 fails with the same error
        print(f"error: {message}", file=sys.stderr)
        return 2
    except DryRun as done:
        return done.code
    except Interrupted as left:
        print(str(left), file=sys.stderr)
        return EXIT_CODE
    return 0


def load_policy(model: ModelConfig) -> Any:
    """Loads the model to train from a full checkpoint or an adapter (merged).

    Raises:
        RecipeError: If the recipe asks for a quantized model.
    """
    if model.load_in_4bit or model.load_in_8bit:
        raise RecipeError(
            "load_in_4bit, load_in_8bit: quantized training is not supported; remove the field and use LoRA"
            " in bfloat16"
        )
    assert model.model_name_or_path is not None, "the recipe parser requires it"
    return load_model(
        model.model_name_or_path,
        dtype=model.dtype,
        attn_implementation=model.attn_implementation,
        revision=model.model_revision,
    )


def trainer_arguments(
    args: Any, model: ModelConfig, tokenizer: Any, data_sha256: str, name: str, callbacks: Sequence[Any]
) -> dict[str, Any]:
    """Returns the arguments that every trainer of ours gets: the loaded policy, its tokenizer and its
    adapter, and the callbacks.

    Args:
        args: The training arguments. The trainer keeps all columns of the rows.
        model: The model arguments.
        tokenizer: The tokenizer of the policy.
        data_sha256: Hash of the training split.
        name: Name of the training on the progress line.
        callbacks: More callbacks.

    Raises:
        RecipeError: As `load_policy`.
    """
    args.remove_unused_columns = False
    return {
        "model": load_policy(model),
        "args": args,
        "processing_class": tokenizer,
        "peft_config": get_peft_config(model),
        "callbacks": [ProvenanceCallback(provenance(data_sha256)), RichProgress(name), *callbacks],
    }


def fit(trainer: Any, identity: RunSpec) -> None:
    """Trains with all guards of a run, from the checkpoint that `resume_from_checkpoint` names.

    Args:
        trainer: A trainer with the mixins of `rft.runs`. Only rft's own progress line is shown.
        identity: The recipe and data of the run, which a resume must match.

    Raises:
        Interrupted: If a signal ended the run; its checkpoint is saved.
        CheckpointError, RecipeError, TrainingError: As `rft.runs.checkpoint` and `rft.runs.failfast`
            describe.
    """
    args = trainer.args
    if args.device.type == "cpu":
        keep_freed_memory()
        trainer.add_callback(ReturnFreedMemory())
    if args.save_on_each_node:
        raise RecipeError(
            "save_on_each_node: a checkpoint must be one folder on a disk that all nodes share; remove the"
            " field"
        )
    lock = lock_output(Path(args.output_dir)) if args.process_index == 0 else None
    trainer.identity = identity
    if args.mlp_tile_tokens:
        tile_mlps(trainer.model, args.mlp_tile_tokens)
    if args.offload_checkpoints:
        offload_checkpoints(trainer.model)
    if args.keep_attention:
        keep_attention(trainer.model)
    # the head is the embedding, which is stored once
    if getattr(trainer.model.config, "tie_word_embeddings", False):
        leave_out("transformers.trainer", "missing keys in the checkpoint model loaded: ['lm_head.weight']")
    checkpoint = resume_point(args, identity)
    for shown in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(shown)
    for callback in (RecallCallback(trainer, checkpoint), StallCallback(args.stall_minutes), MetricsFile()):
        trainer.add_callback(callback)
    if hasattr(trainer, "reward_funcs"):
        trainer.add_callback(EarlySigns(trainer))
    if "wandb" in args.report_to:  # ours instead of transformers' and TRL's
        trainer.remove_callback(WandbCallback)
        args.report_to = [name for name in args.report_to if name != "wandb"]
        trainer.add_callback(
            WandbRun(trainer, identity.record().dump() | provenance(identity.data_sha256).dump())
        )
    # the last one that sees a checkpoint, because it ends the run
    trainer.add_callback(StopCallback(trainer))
    trainer.add_callback(DiskCallback(trainer))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    del lock


def finish(trainer: Any) -> None:
    """Saves the trained model with its tokenizer, state and card in `output_dir`, and on the Hub if
    `push_to_hub` is set.

    The float32 masters are only in the checkpoints.
    """
    trainer.create_model_card()
    trainer.give_up_masters()
    trainer.save_model(trainer.args.output_dir)
    trainer.save_state()
