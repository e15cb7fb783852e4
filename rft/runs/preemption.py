"""Clean stop on Ctrl-C, SIGTERM and SIGUSR1: a checkpoint after the current step, then exit code 75 ("try
again later").

A second signal of the same kind has its usual effect. All processes decide together: a signal to one of them
stops all. The reason is written to `interrupted.json`, since launchers turn every exit code into 1.
"""

import json
import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

from rft.errors import Interrupted, TrainingError
from rft.launch import LEFT

logger = logging.getLogger(__name__)

if not hasattr(signal, "SIGUSR1"):
    raise TrainingError("training does not run on Windows, which has no SIGUSR1; use WSL, Linux or macOS")
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopCallback(TrainerCallback):
    """Handles signals during training as a request to stop after the current step."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.signal_name: str | None = None
        self.stopped = False
        self.before: dict[signal.Signals, Any] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        """Installs the signal handlers."""
        (Path(args.output_dir) / LEFT).unlink(missing_ok=True)
        for number in SIGNALS:
            self.before[number] = signal.signal(number, self._tell)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        signal.signal(number, self.before[signal.Signals(number)])  # a second signal acts at once
        if self.trainer.args.process_index == 0:
            logger.warning(
                "%s: saving a checkpoint after this step, then exiting. Send it again to exit immediately.",
                self.signal_name,
            )

    def on_step_end(self, args, state, control, **kwargs):
        """Requests a checkpoint and the end of training if any process got a signal."""
        signalled = torch.tensor(int(self.signal_name is not None), device=args.device)
        if self.trainer.accelerator.gather(signalled).max().item() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = self.stopped = True

    def on_train_end(self, args, state, control, **kwargs):
        """Restores the previous signal handlers."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_save(self, args, state, control, **kwargs):
        """Ends the run after the checkpoint, before anything is logged that an uninterrupted run does not
        log.

        Raises:
            Interrupted: If a signal has asked for it.
        """
        if not self.stopped:
            return
        checkpoint = f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            left = {"exit_code": EXIT_CODE, "signal": self.signal_name, "checkpoint": checkpoint}
            (Path(args.output_dir) / LEFT).write_text(json.dumps(left) + "\n", encoding="utf-8")
        self.trainer.callback_handler.on_train_end(args, state, control)
        raise Interrupted(
            f"stopped after step {state.global_step}, saved {checkpoint}; to resume, add"
            " --resume_from_checkpoint true"
        )
