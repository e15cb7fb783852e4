"""A small real training run: the quickstart's cold start and GRPO, with the scripts and recipes that a user
runs, within the available time. It shows that rewards rise on this device, and how long a step takes. `rft
quickstart` shows how far they rise.
"""

import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from transformers import TrainerCallback

from rft.bench.update import Say
from rft.metrics.table import named
from rft.records.training import METRICS, read_metrics
from rft.simulate.pipeline import simulate
from rft.simulate.profile import Settings
from rft.toy.quickstart import RECIPES

SHARE = 0.35  # share of the time for the cold start
REST = 0.8  # share of what is left for GRPO; saving the model takes time too
FOLLOWED = [
    named(name).name
    for name in (
        "loss",
        "reward",
        "held_out/right_and_consistent",
        "sampling/logp_difference_max",
        "time/rollout",
    )
]
EDGE = 5  # number of steps averaged for the first and the last value


class Deadline(TrainerCallback):
    """Stops a training run when its time is over."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def on_step_end(self, args, state, control, **kwargs):
        """Stops the training if the time is over."""
        control.should_training_stop |= time.monotonic() > self.end


def training(
    out: Path,
    on: str,
    personas: int,
    words: dict[str, list[str]],
    seconds: float,
    say: Say = lambda figures: None,
) -> dict[str, Any]:
    """Runs the cold start and GRPO.

    Args:
        out: output folder.
        on: the device.
        personas: number of simulated personas.
        words: {"sft" or "grpo": overrides of its recipe}.
        seconds: available time.
        say: called with the figures so far.

    Returns:
        Steps, seconds per step and the training metrics, by recipe.
    """
    from rft.train import grpo, sft

    end = time.monotonic() + seconds
    if not (out / "data").exists():
        simulate(Settings("mini", personas, seed=0), out / "data")
    common = ["--data", str(out / "data"), "--token_cache", str(out / "tokens"), "--save_strategy", "no"]
    common += ["--use_cpu", "true"] if on == "cpu" else []
    figures: dict[str, Any] = {}
    for name, script, model, share in (
        ("sft", sft, RECIPES / "base", SHARE),
        ("grpo", grpo, out / "sft", REST),
    ):
        left = share * (end - time.monotonic())
        script.train(
            [
                "--config",
                str(RECIPES / f"{name}.yaml"),
                "--model_name_or_path",
                str(model),
                "--output_dir",
                str(out / name),
            ]
            + common
            + words[name],
            callbacks=[Deadline(left)],
        )
        figures[name] = learned(out / name)
        say(figures)
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
            figures[key] = {
                "first": mean(values[:EDGE]),
                "last": mean(values[-EDGE:]),
                "largest": max(values),
            }
    return figures
