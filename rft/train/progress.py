"""One line of progress on the terminal for a training run: step, loss and what is being learned."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

SHOWN = {"loss": "loss", "reward": "reward", "unparsed_rate": "unparsed"}


class RichProgress(TrainerCallback):
    """A rich progress bar in place of TRL's tables and transformers' dictionaries."""

    def __init__(self, name: str, console: Console | None = None):
        self.name, self.console = name, console or Console(stderr=True)
        self.bar: Progress | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                                TextColumn("{task.fields[said]}"), TimeRemainingColumn(), console=self.console)
            self.task = self.bar.add_task(self.name, total=state.max_steps, completed=state.global_step, said="")
            self.bar.start()

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.bar and logs:
            said = " ".join(f"{name} {logs[key]:.3f}" for key, name in SHOWN.items() if isinstance(logs.get(key), float))
            if said:
                self.bar.update(self.task, said=said)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar:
            self.bar.stop()
            self.bar = None
