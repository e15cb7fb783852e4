"""Tracking of a run, in W&B and in its own folder: its metrics, and the versions of its code, packages and
data.

Invariant: nothing secret is collected, only package versions, the git commit and hashes.
"""

import logging
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from transformers import Trainer, TrainerCallback

from rft.files import write_atomic
from rft.metrics.table import RUN, find
from rft.records.base import Record, read_json
from rft.records.training import (
    METRICS,
    PROVENANCE,
    WANDB,
    MetricsLine,
    Provenance,
    WandbRecord,
    read_metrics,
)
from rft.runs import lineage

logger = logging.getLogger(__name__)

SAMPLES = 8
"""Completions per generation in W&B's table; `completions/*.parquet` contains all of them."""
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "wandb")


def git_commit() -> str | None:
    """Returns the commit of the checkout this package runs from, with a "+" if files differ from it; None
    outside of git."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(data_sha256: str) -> Provenance:
    """Returns git commit, package versions and data hash, for the W&B config and `provenance.json`."""
    return Provenance(git_commit=git_commit(), versions=versions(), data_sha256=data_sha256)


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Returns the version of each package; None if it is not installed."""
    installed: dict[str, str | None] = dict.fromkeys(packages)
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


class ProvenanceCallback(TrainerCallback):
    """Writes the record of `provenance` to `provenance.json` in the output folder."""

    def __init__(self, record: Provenance):
        self.record = record

    def on_train_begin(self, args, state, control, **kwargs):
        """Writes the file."""
        if state.is_world_process_zero:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            write(Path(args.output_dir) / PROVENANCE, self.record)


class MetricsFile(TrainerCallback):
    """Writes `metrics.jsonl` in the output folder: one line per log, with its step.

    When a killed run resumes, the lines after its checkpoint are dropped, since those steps run again.
    """

    def __init__(self) -> None:
        self.left_out: set[str] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        """Drops the lines after the step to resume from."""
        if not state.is_world_process_zero:
            return
        self.path = Path(args.output_dir) / METRICS
        kept = [row for row in read_metrics(self.path) if row.step <= state.global_step]
        self.path.write_text("".join(row.to_line() for row in kept), encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Appends a line."""
        if state.is_world_process_zero and logs:
            now = {"step": state.global_step, "time": round(time.time(), 3)}
            row = MetricsLine.model_validate(now | self._numbers(logs))
            with self.path.open("a", encoding="utf-8") as file:
                file.write(row.to_line())

    def _numbers(self, logs: dict[str, object]) -> dict[str, float]:
        """What a line can contain; anything else that a callback logs is left out, and named once."""
        numbers = {key: value for key, value in logs.items() if isinstance(value, (int, float))}
        for key in sorted(logs.keys() - numbers.keys() - self.left_out):
            self.left_out.add(key)
            logger.warning("%s: %s is left out: %r is not a number", METRICS, key, logs[key])
        return numbers


class WandbRun(TrainerCallback):
    """One W&B run per output folder, however often it is resumed: the same id, and no step twice.

    `wandb.json` contains the id and the last step that W&B certainly has: the last step of a process that
    ended normally. After a kill, the later steps in `metrics.jsonl` are sent again, with the same numbers;
    W&B drops the steps that it has. Samples go into one growing table. Checkpoints are artifacts that refer
    to their folder and contain the hashes they come from; their files are not uploaded.
    """

    def __init__(self, trainer: Trainer, config: dict[str, JsonValue]):
        self.trainer, self.config = trainer, config
        self.run: Any = None
        self.newest = -1  # the last step that this process has sent

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Starts or resumes the W&B run, and sends again what a killed process may not have sent."""
        if not state.is_world_process_zero:
            return
        import wandb

        self.path = Path(args.output_dir) / WANDB
        self.sent = WandbRecord(id=secrets.token_hex(4), step=-1)
        if self.path.exists():
            self.sent = read_json(self.path, WandbRecord, "remove it to start a new W&B run")
        write(self.path, self.sent)
        offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rft"),
            id=self.sent.id,
            name=args.run_name,
            job_type="train",
            resume=None if offline else "allow",
            reinit="finish_previous",
            config={**self.config, "model": model.config.to_dict() if model is not None else None},
        )
        lineage.use(self.run, lineage.dataset(str(self.config["data_sha256"])))
        self.run.define_metric("train/*", step_metric="train/global_step")
        # those still in the buffers of a killed process
        for row in read_metrics(Path(args.output_dir) / METRICS):
            if self.sent.step < row.step <= state.global_step:
                epoch = {} if row.epoch is None else {"epoch": row.epoch}
                self._send(epoch | row.values, row.step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Sends the metrics, unless W&B has this step."""
        if self.run is not None and logs and state.global_step > self.sent.step:
            self._send(logs, state.global_step)

    def _send(self, logs: dict[str, float], step: int) -> None:
        self.run.summary.update({key: value for key, value in logs.items() if _of_the_run(key)})
        row = {_name(key): value for key, value in logs.items() if not _of_the_run(key)}
        if not row.keys() <= {"train/epoch"}:
            self.run.log({**row, "train/global_step": step}, step=step)
            self.newest = step

    def _table(self, args: Any, step: int) -> None:
        """Logs a few completions of every step so far, from the files that TRL writes: complete after a
        resume too."""
        if self.newest != step:  # nothing new, or a step that was sent before
            return
        import pandas as pd
        import wandb

        tables = []
        for file in sorted((Path(args.output_dir) / "completions").glob("completions_*.parquet")):
            if int(file.stem.rpartition("_")[2]) <= step:
                rows = pd.read_parquet(file)
                tables.append(rows.iloc[:: max(1, len(rows) // SAMPLES)][:SAMPLES])
        if tables:
            self.run.log({"completions": wandb.Table(dataframe=pd.concat(tables))}, step=step)

    def on_save(self, args, state, control, **kwargs):
        """Logs sample completions and the checkpoint's artifact."""
        if self.run is not None:
            self._table(args, state.global_step)
            self._artifact(Path(args.output_dir) / f"checkpoint-{state.global_step}", state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        """Ends the W&B run and records the last step that was sent."""
        if self.run is not None:
            self._table(args, state.global_step)
            self.run.finish()
            self.run = None
            write(self.path, WandbRecord(id=self.sent.id, step=max(self.newest, self.sent.step)))

    def _artifact(self, folder: Path, step: int) -> None:
        facts = {key: self.config[key] for key in ("git_commit", "data_sha256", "recipe_sha256")}
        artifact = lineage.checkpoint(folder, self.sent.id, {**facts, "step": step})
        self.run.log_artifact(artifact, aliases=[f"step-{step}"])


def _of_the_run(key: str) -> bool:
    metric = find(key)
    return metric is not None and metric.over == RUN


def _name(key: str) -> str:
    """Puts metrics of training under train/ and those of an evaluation under eval/."""
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def write(path: Path, record: Record) -> None:
    """Writes a record atomically."""
    write_atomic(path, record.to_text().encode())
