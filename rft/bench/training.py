"""A real training run: the cold start and GRPO of a recipe folder, with the scripts and recipes that a user
runs, within the available time. It shows that rewards rise on this device, and how long a step takes. `rft
quickstart` and the recipes' READMEs show how far they rise.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from transformers import TrainerCallback

from rft.bench.update import Say
from rft.metrics.table import named
from rft.records.training import METRICS, read_metrics
from rft.simulate.pipeline import simulate
from rft.simulate.profile import Settings

SHARE = 0.35  # share of the time for the cold start
REST = 0.8  # share of what is left for GRPO; saving the model takes time too
HELD_OUT = named("held_out/right_and_consistent").name
FOLLOWED = [
    named(name).name for name in ("loss", "reward", HELD_OUT, "sampling/logp_difference_max", "time/rollout")
]
EDGE = 5  # number of steps averaged for the first and the last value; a held-out value is a mean already


SAY = 10.0  # least seconds between two reports of a training that goes on


class Deadline(TrainerCallback):
    """Reports what a training run has reached, and stops it when its time is over."""

    def __init__(self, seconds: float, say: Callable[[], None]):
        self.end, self.say, self.said = time.monotonic() + seconds, say, time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Reports from time to time, and stops the training if the time is over."""
        now = time.monotonic()
        control.should_training_stop |= now > self.end
        if now - self.said > SAY and state.is_world_process_zero:
            self.said = now
            self.say()


@dataclass(frozen=True)
class Course:
    """What is trained, and on what.

    Attributes:
        recipes: the folder of sft.yaml and grpo.yaml.
        base: the checkpoint from which the cold start begins.
        data: the simulated dataset.
        words: {"sft" or "grpo": overrides of its recipe}.
    """

    recipes: Path
    base: Path
    data: Settings
    words: dict[str, list[str]]


def training(
    out: Path, on: str, course: Course, seconds: float, say: Say = lambda figures: None
) -> dict[str, Any]:
    """Runs the cold start and GRPO.

    Args:
        out: output folder.
        on: the device.
        course: the model, the data and the recipes.
        seconds: available time.
        say: called with the figures so far.

    Returns:
        Steps, seconds per step and the training metrics, by recipe.
    """
    from rft.train import grpo, sft

    end = time.monotonic() + seconds
    if not (out / "data").exists():
        simulate(course.data, out / "data")
    common = ["--data", str(out / "data"), "--token_cache", str(out / "tokens"), "--save_strategy", "no"]
    common += ["--use_cpu", "true"] if on == "cpu" else []
    figures: dict[str, Any] = {}
    for name, script, model, share in (("sft", sft, course.base, SHARE), ("grpo", grpo, out / "sft", REST)):
        left = share * (end - time.monotonic())

        def reached(name: str = name) -> None:
            figures[name] = learned(out / name)
            say(figures)

        script.train(
            [
                "--config",
                str(course.recipes / f"{name}.yaml"),
                "--model_name_or_path",
                str(model),
                "--output_dir",
                str(out / name),
            ]
            + common
            + course.words[name],
            callbacks=[Deadline(left, reached)],
        )
        reached()
    return figures


def learned(out: Path) -> dict[str, Any]:
    """Returns steps, median seconds per step, and the first and last means of loss, reward and held-out
    accuracy."""
    rows = read_metrics(out / METRICS)
    logs = [row for row in rows if "loss" in row.values]
    gaps = [
        (after.time - before.time) / (after.step - before.step)
        for before, after in zip(logs, logs[1:], strict=False)
        if after.step > before.step
    ]
    figures: dict[str, Any] = {"steps": max((row.step for row in rows), default=0)}
    if gaps:
        figures["step_seconds"] = median(gaps)
    for key in FOLLOWED:
        values = [row.values[key] for row in rows if key in row.values]
        if values:
            edge = 1 if key == HELD_OUT else EDGE
            figures[key] = {
                "first": mean(values[:edge]),
                "last": mean(values[-edge:]),
                "largest": max(values),
            }
    return figures
