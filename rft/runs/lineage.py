"""Inputs and outputs of W&B runs: datasets by their hash, checkpoints by their folder.

Invariant: the same dataset or folder always gives an artifact with the same content. W&B stores it once, and
so links the runs that made and used it. Only hashes and names are uploaded.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rft.records.base import read_json
from rft.records.training import WANDB, WandbRecord

if TYPE_CHECKING:
    import wandb


def dataset(data_sha256: str) -> "wandb.Artifact":
    """Makes the artifact that represents a dataset."""
    import wandb

    artifact = wandb.Artifact(
        f"data-{data_sha256[:12]}", type="dataset", metadata={"data_sha256": data_sha256}
    )
    with artifact.new_file("data.json") as file:
        json.dump({"data_sha256": data_sha256}, file)
    return artifact


def checkpoint(folder: Path, run_id: str, facts: Mapping[str, object]) -> "wandb.Artifact":
    """Makes the artifact that refers to a folder of weights.

    Args:
        folder: the folder; its files are not uploaded.
        run_id: id of the W&B run that trained the weights.
        facts: metadata of the artifact.
    """
    import wandb

    artifact = wandb.Artifact(f"checkpoint-{run_id}", type="model", metadata=dict(facts))
    artifact.add_reference(folder.resolve().as_uri(), checksum=False)
    return artifact


def trained_in(folder: Path) -> str | None:
    """Reads the id of the W&B run that trained a checkpoint from `wandb.json` in its folder or the parent,
    None without one."""
    for record in (folder / WANDB, folder.parent / WANDB):
        if record.is_file():
            return read_json(record, WandbRecord, "remove it to go on without it").id
    return None


def use(run: "wandb.Run", *artifacts: "wandb.Artifact") -> None:
    """Registers the inputs of a run. Offline W&B accepts none; the hashes in the run's config identify
    them."""
    for artifact in () if run.offline else artifacts:
        run.use_artifact(artifact)
