"""Training progress: a bar on a terminal; in a log file (Slurm, nohup, a pipe) a line at every logging step,
so that a long run never seems to hang. Only the first process prints.
"""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from rft.metrics.table import named
from rft.screen import screen

SHOWN = {named("loss"): "loss", named("reward"): "reward", named("unparsed_rate"): "unparsed"}


class RichProgress(TrainerCallback):
    """Shows progress in place of TRL's tables and transformers' dictionaries."""

    def __init__(self, name: str, console: Console | None = None):
        self.name, self.console = name, console or screen(stderr=True)
        self.bar: Progress | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Starts the bar, if there is a terminal."""
        self.step, self.time = state.global_step, time.monotonic()  # of the last line
        if state.is_world_process_zero and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task(
                self.name, total=state.max_steps, completed=state.global_step, said=""
            )
            self.bar.start()

    def on_step_end(self, args, state, control, **kwargs):
        """Moves the bar."""
        if self.bar:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Shows the metrics of `SHOWN` beside the bar, or prints a line."""
        metrics = " ".join(
            f"{name} {logs[metric.name]:.3f}"
            for metric, name in SHOWN.items()
            if isinstance((logs or {}).get(metric.name), float)
        )
        if not metrics:
            return
        if self.bar:
            self.bar.update(self.task, said=metrics)
        elif state.is_world_process_zero and state.global_step > self.step:
            step_seconds = (time.monotonic() - self.time) / (state.global_step - self.step)
            self.step, self.time = state.global_step, time.monotonic()
            left = duration(step_seconds * (state.max_steps - state.global_step))
            line = (
                f"{self.name} step {state.global_step}/{state.max_steps} {metrics}, {step_seconds:.3g} s a"
                f" step, {left} left"
            )
            print(line, file=self.console.file, flush=True)

    def on_train_end(self, args, state, control, **kwargs):
        """Removes the bar."""
        if self.bar:
            self.bar.stop()
            self.bar = None


def duration(seconds: float) -> str:
    """Formats seconds in the one or two largest useful units: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
