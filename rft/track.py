"""What a run is tracked with: where its code, packages and data came from, under fixed names in W&B and beside the checkpoint.

Nothing secret is ever collected: package versions, the git commit, hashes.
"""

import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "wandb")


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with "+" behind it where files differ; None outside of git."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(data_sha256: str) -> dict[str, Any]:
    """Git commit, package versions and data hash, as they go into the W&B config and `provenance.json`."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {"git_commit": git_commit(), "versions": versions, "data_sha256": data_sha256}


class ProvenanceCallback(TrainerCallback):
    """Puts `provenance` into the W&B config, when a W&B run is on, and into `provenance.json` in the output folder."""

    def __init__(self, record: dict[str, Any]):
        self.record = record

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        (Path(args.output_dir) / "provenance.json").write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")
        if "wandb" in args.report_to:
            import wandb

            if wandb.run is not None:
                wandb.config.update(self.record, allow_val_change=True)
