"""Ends a run at once, with the reason, if it cannot continue: NaN or infinite values, a stalled process, a
full disk, or an output folder that another run writes to.

If a loss or gradient is not finite, all processes end together, before the optimizer's step and before any
checkpoint. (DeepSpeed steps inside the backward pass, so there they end after the step.) The micro-batches of
that step are saved.
"""

import faulthandler
import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import Trainer, TrainerCallback

from rft.errors import CheckpointError, RecipeError, TrainingError
from rft.files import lock

logger = logging.getLogger(__name__)

STALLED = 76
"""Exit code of a process that made no progress."""
MARGIN = 1.2
"""Free disk space required before a checkpoint, in checkpoint sizes."""


class FailFastMixin(Trainer):
    """Mixin before a trainer: a loss or gradient that is not finite ends training."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Trains on a micro-batch.

        Raises:
            TrainingError: If its loss is not finite on some rank.
        """
        if not hasattr(self, "_rows_of_step"):
            self._rows_of_step: list[Any] = []
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._rows_of_step.append(self.rows_of(inputs))
        self._end_unless_finite("loss", loss)
        return loss

    def rows_of(self, inputs: Any) -> Any:
        """Returns the tensors of the micro-batch that was just trained on."""
        return inputs

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None:
            self._end_unless_finite("gradient norm", torch.as_tensor(norm))
        self._rows_of_step = []
        return norm

    def _end_unless_finite(self, what: str, value: torch.Tensor) -> None:
        bad = ~torch.isfinite(value.detach().to(self.args.device).float()).all()
        ranks = self.accelerator.gather(bad.reshape(1)).nonzero().flatten().tolist()
        if not ranks:
            return
        step = self.state.global_step + 1
        folder = Path(str(self.args.output_dir)) / f"not_finite_step_{step}"
        if bad.item():
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(self._rows_of_step, folder / f"rank_{self.args.process_index}.pt")
        self.accelerator.wait_for_everyone()
        raise TrainingError(
            f"step {step}: the {what} is not finite (rank {', '.join(map(str, ranks))}); the rows of the step"
            f" are in {folder}. Lower learning_rate or max_grad_norm, or train in bf16 or fp32, and resume"
            " from the last checkpoint"
        )


class StallCallback(TrainerCallback):
    """Ends this process if it makes no progress for `minutes`: prints its rank and stack traces, and exits
    with code 76.

    A thread watches; progress is a finished micro-batch, step or checkpoint. The launcher then ends the other
    processes.
    """

    def __init__(self, minutes: float):
        self.minutes = minutes
        self.moved, self.last, self.stop = time.monotonic(), "the start", threading.Event()

    def on_train_begin(self, args, state, control, **kwargs):
        """Starts the watching thread; none if `minutes` is 0."""
        if self.minutes > 0:
            self.rank = f"rank {args.process_index} of {args.world_size}"
            self._move("the start")
            threading.Thread(target=self._watch, daemon=True).start()

    def _move(self, what: str) -> None:
        self.moved, self.last = time.monotonic(), what

    def on_substep_end(self, args, state, control, **kwargs):
        """Counts a micro-batch as progress."""
        self._move(f"a micro-batch of step {state.global_step + 1}")

    def on_step_end(self, args, state, control, **kwargs):
        """Counts a step as progress."""
        self._move(f"step {state.global_step}")

    def on_save(self, args, state, control, **kwargs):
        """Counts a checkpoint as progress."""
        self._move(f"checkpoint-{state.global_step}")

    def on_train_end(self, args, state, control, **kwargs):
        """Stops the watching thread."""
        self.stop.set()

    def _watch(self) -> None:
        while not self.stop.wait(min(10.0, self.minutes * 6)):
            still = time.monotonic() - self.moved
            if still > self.minutes * 60:
                print(
                    f"error: {self.rank}: no progress for {still:.0f} s after {self.last} (stall_minutes"
                    f" {self.minutes:g}). Stack traces follow; a rank waiting in a collective is blocked by"
                    " another rank.",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(STALLED)


def size(count: float) -> str:
    """Formats bytes in the largest unit that gives at least 1: "640.0 KiB", "7.5 GiB"."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(max(int(count).bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count / 2 ** (10 * power):.{bool(power):d}f} {units[power]}"


class DiskCallback(TrainerCallback):
    """Ends the run before a checkpoint that does not fit on the disk, so that the last one survives."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.needed = 0

    def on_step_end(self, args, state, control, **kwargs):
        """Checks the free space before a checkpoint.

        Raises:
            TrainingError: If some process has too little.
        """
        due = args.save_strategy == "steps" and args.save_steps and state.global_step % args.save_steps == 0
        if not (due or control.should_save):
            return
        self.needed = self.needed or checkpoint_bytes(self.trainer)
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(args.output_dir).free
        full = torch.tensor(int(free < self.needed * MARGIN), device=args.device)
        if self.trainer.accelerator.gather(full).max().item():  # all processes end together
            raise TrainingError(
                f"step {state.global_step}: {args.output_dir} has {size(free)} free and a checkpoint takes"
                f" about {size(self.needed)}; free some space (or set save_total_limit) and resume with"
                " --resume_from_checkpoint true"
            )

    def on_save(self, args, state, control, **kwargs):
        """Measures the checkpoint just written: the next one needs as much."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self.needed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def checkpoint_bytes(trainer: Any) -> int:
    """Estimates the size of the first checkpoint in bytes.

    It contains the saved weights, and two moments of each trained weight (and its float32 copy if DeepSpeed
    keeps one).
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    sizes = [
        (getattr(p, "ds_numel", p.numel()), p.element_size(), p.requires_grad) for p in model.parameters()
    ]
    adapter = hasattr(model, "peft_config")
    weights = sum(n * width for n, width, trained in sizes if trained or not adapter)
    moments = 12 if trainer.is_deepspeed_enabled else None
    return weights + sum(n * (moments or 2 * width) for n, width, trained in sizes if trained)


def lock_output(folder: Path) -> FileLock:
    """Locks an output folder, so that one run at a time writes to it. The lock is held as long as something
    refers to it.

    Raises:
        RecipeError: If another run has it.
        CheckpointError: If the folder is not writable.
    """
    taken = f"{folder}: another run writes to this folder; wait for it, or name another output_dir"
    try:
        return lock(folder / ".lock", RecipeError(taken))
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot write checkpoints here ({error.strerror}); name another output_dir, or"
            " change its permissions"
        ) from None
