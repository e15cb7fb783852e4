"""What every training script does beside its trainer: logging, loading the policy, resuming.

A user's mistake ends in one line on stderr and exit code 2, not in a traceback.
"""

import ctypes
import logging
import platform
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging
from trl import ModelConfig

from rft.errors import RecipeError, RftError
from rft.model import load_model

logger = logging.getLogger(__name__)


def set_up_logging() -> None:
    """Our own lines at INFO, everybody else's from WARNING on. A script run with `python -m` logs as `__main__`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("rft", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")  # a CPU has nothing to pin, and nothing is lost
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing. is deprecated.*")  # TRL 1.16 still speaks of it


def run_main(train: Callable[[Sequence[str] | None], Any], argv: Sequence[str] | None = None) -> int:
    """Run a training script's `train(argv)`; its exit code."""
    set_up_logging()
    try:
        train(argv)
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def load_policy(model: ModelConfig) -> Any:
    """The model to train, from a full checkpoint or an adapter (merged)."""
    if model.load_in_4bit or model.load_in_8bit:
        raise RecipeError(
            "load_in_4bit, load_in_8bit: quantized training is not offered; remove the field and use LoRA in bfloat16")
    assert model.model_name_or_path is not None, "the recipe's parser asks for it"
    return load_model(model.model_name_or_path, dtype=model.dtype, attn_implementation=model.attn_implementation,
                      revision=model.model_revision)


def keep_freed_memory() -> None:
    """Has glibc keep freed memory for the process, as CUDA's caching allocator does: giving tensors of more than 32 MB back and
    faulting their pages in again takes a fifth of an update's time on CPU."""
    if platform.libc_ver()[0] == "glibc":
        most_mappings, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
        ctypes.CDLL(None).mallopt(most_mappings, 0)
        ctypes.CDLL(None).mallopt(trim_threshold, 2**31 - 1)


def fit(trainer: Trainer) -> None:
    """Train from where `resume_from_checkpoint` says, with our progress line as the only one."""
    if trainer.args.device.type == "cpu":
        keep_freed_memory()
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume_point(trainer.args))


def resume_point(args: Any) -> str | None:
    """The checkpoint to resume from: the one named, or with `resume_from_checkpoint: true` the newest in output_dir, if any."""
    wanted = args.resume_from_checkpoint
    if wanted in (None, False, "false", "False"):
        return None
    if wanted in (True, "true", "True"):
        newest = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
        logger.info("resume: %s", newest or f"no checkpoint in {args.output_dir} yet, so from the start")
        return newest
    if not Path(wanted).is_dir():
        raise RecipeError(f"resume_from_checkpoint {wanted}: no such folder; name a checkpoint-N folder or true for the newest")
    return wanted
