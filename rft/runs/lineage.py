"""What a W&B run was made from: a dataset by its hash, a checkpoint by its folder.

Invariant: the same dataset or folder gives an artifact of the same content, which W&B keeps as one; so the runs that made
and used it are linked there. Nothing is uploaded but hashes and names.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def dataset(data_sha256: str) -> Any:
    """The artifact that stands for a dataset."""
    import wandb

    artifact = wandb.Artifact(f"data-{data_sha256[:12]}", type="dataset", metadata={"data_sha256": data_sha256})
    with artifact.new_file("data.json") as file:
        json.dump({"data_sha256": data_sha256}, file)
    return artifact


def checkpoint(folder: Path, run_id: str, facts: Mapping[str, Any]) -> Any:
    """The artifact that refers to a folder of weights. run_id: of the W&B run that trained them."""
    import wandb

    artifact = wandb.Artifact(f"checkpoint-{run_id}", type="model", metadata=dict(facts))
    artifact.add_reference(folder.resolve().as_uri(), checksum=False)
    return artifact


def trained_in(folder: Path) -> str | None:
    """The id of the W&B run that trained a checkpoint: `wandb.json` lies in its folder or beside it. None where there is none."""
    for record in (folder / "wandb.json", folder.parent / "wandb.json"):
        if record.is_file():
            return str(json.loads(record.read_text(encoding="utf-8"))["id"])
    return None


def use(run: Any, *artifacts: Any) -> None:
    """Name the inputs of a run. Offline W&B takes none; there the hashes in the run's config tell."""
    for artifact in () if run.offline else artifacts:
        run.use_artifact(artifact)
