"""Tracking of a run, in W&B and in its own folder: its metrics, and the versions of its code, packages and
data.

Invariant: nothing secret is collected, only package versions, the git commit and hashes.
"""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rft.runs import lineage

METRICS = "metrics.jsonl"
SAMPLES = 8
"""Completions per generation in W&B's table; `completions/*.parquet` contains all of them."""
SUMMARY = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")
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
        return git("rev-parse", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(data_sha256: str) -> dict[str, Any]:
    """Returns git commit, package versions and data hash, for the W&B config and `provenance.json`."""
    return {"git_commit": git_commit(), "versions": versions(), "data_sha256": data_sha256}


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Returns the version of each package; None if it is not installed."""
    found: dict[str, str | None] = dict.fromkeys(packages)
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class ProvenanceCallback(TrainerCallback):
    """Writes the record of `provenance` to `provenance.json` in the output folder."""

    def __init__(self, record: dict[str, Any]):
        self.record = record

    def on_train_begin(self, args, state, control, **kwargs):
        """Writes the file."""
        if state.is_world_process_zero:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            write(Path(args.output_dir) / "provenance.json", self.record)


class MetricsFile(TrainerCallback):
    """Writes `metrics.jsonl` in the output folder: one line per log, with its step.

    When a killed run resumes, the lines after its checkpoint are dropped, since those steps run again.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        """Drops the lines after the step to resume from."""
        if not state.is_world_process_zero:
            return
        self.path = Path(args.output_dir) / METRICS
        kept = [row for row in read_metrics(self.path) if row["step"] <= state.global_step]
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Appends a line."""
        if state.is_world_process_zero and logs:
            row = {"step": state.global_step, "time": round(time.time(), 3), **logs}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a `metrics.jsonl`, [] if there is none; skips a line that a kill cut off."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


class WandbRun(TrainerCallback):
    """One W&B run per output folder, however often it is resumed: the same id, and no step twice.

    `wandb.json` contains the id and the last step that W&B certainly has: the last step of a process that
    ended normally. After a kill, the later steps in `metrics.jsonl` are sent again, with the same numbers;
    W&B drops the steps that it has. Samples go into one growing table. Checkpoints are artifacts that refer
    to their folder and contain the hashes they come from; their files are not uploaded.
    """

    def __init__(self, trainer: Any, config: dict[str, Any]):
        self.trainer, self.config = trainer, config
        self.run: Any = None
        self.newest = -1  # the last step that this process has sent

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Starts or resumes the W&B run, and sends again what a killed process may not have sent."""
        if not state.is_world_process_zero:
            return
        import wandb

        self.path = Path(args.output_dir) / "wandb.json"
        new: dict[str, Any] = {"id": secrets.token_hex(4), "step": -1}
        self.sent: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else new
        write(self.path, self.sent)
        offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rft"),
            id=self.sent["id"],
            name=args.run_name,
            job_type="train",
            resume=None if offline else "allow",
            reinit="finish_previous",
            config={**self.config, "model": model.config.to_dict() if model is not None else None},
        )
        if "data_sha256" in self.config:
            lineage.use(self.run, lineage.dataset(self.config["data_sha256"]))
        self.run.define_metric("train/*", step_metric="train/global_step")
        # those still in the buffers of a killed process
        for row in read_metrics(Path(args.output_dir) / METRICS):
            if self.sent["step"] < row["step"] <= state.global_step:
                self._send(
                    {key: value for key, value in row.items() if key not in ("step", "time")}, row["step"]
                )

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Sends the metrics, unless W&B has this step."""
        if self.run is not None and logs and state.global_step > self.sent["step"]:
            self._send(logs, state.global_step)

    def _send(self, logs: dict[str, Any], step: int) -> None:
        self.run.summary.update({key: value for key, value in logs.items() if key in SUMMARY})
        row = {_name(key): value for key, value in logs.items() if key not in SUMMARY}
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
            write(self.path, {**self.sent, "step": max(self.newest, self.sent["step"])})

    def _artifact(self, folder: Path, step: int) -> None:
        facts: dict[str, Any] = {
            key: self.config[key]
            for key in ("git_commit", "data_sha256", "recipe_sha256")
            if key in self.config
        }
        self.run.log_artifact(
            lineage.checkpoint(folder, self.sent["id"], {**facts, "step": step}), aliases=[f"step-{step}"]
        )


def _name(key: str) -> str:
    """Puts metrics of training under train/ and those of an evaluation under eval/."""
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def write(path: Path, record: dict[str, Any]) -> None:
    """Writes JSON atomically."""
    whole = path.with_name(f".{path.name}.part")
    whole.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    whole.replace(path)
