"""Records of a training: `metrics.jsonl`, `provenance.json`, `wandb.json`, and the manifest `whole.json` of
a checkpoint."""

from pathlib import Path

from pydantic import JsonValue

from rft.records.base import Record, read_json

METRICS = "metrics.jsonl"
PROVENANCE = "provenance.json"
WANDB = "wandb.json"


class MetricsLine(Record):
    """One line of `metrics.jsonl`: what was logged at a step.

    Attributes:
        step: number of optimizer steps.
        time: seconds since 1970.
        epoch: passes over the data.
    """

    __pydantic_extra__: dict[str, float]  # {metric: value}

    step: int
    time: float
    epoch: float | None = None

    @property
    def values(self) -> dict[str, float]:
        """{metric: value}, without the fixed keys."""
        return self.model_extra or {}


class Provenance(Record):
    """`provenance.json`: the code, packages and data of a run.

    Attributes:
        git_commit: commit of rft, with a "+" if files differ from it (None: not from a checkout).
        versions: {package: version, None if it is not installed}.
        data_sha256: hash of the training data.
    """

    git_commit: str | None
    versions: dict[str, str | None]
    data_sha256: str


class WandbRecord(Record):
    """`wandb.json`: the W&B run of an output folder.

    Attributes:
        id: id of the run.
        step: last step that W&B certainly has, -1 for none.
    """

    id: str
    step: int


class RunRecord(Record):
    """A run as its checkpoints record it; see `rft.runs.run_spec.RunSpec`."""

    recipe: dict[str, JsonValue]
    data_sha256: str
    processes: int
    recipe_sha256: str


class Manifest(Record):
    """`whole.json`: what a checkpoint must contain.

    Attributes:
        step: number of optimizer steps.
        identity: the run that wrote it.
        files: {file: (bytes, CRC-32)}.
    """

    step: int
    identity: RunRecord | None
    files: dict[str, tuple[int, str]]


def read_metrics(path: Path) -> list[MetricsLine]:
    """Reads a `metrics.jsonl`: [] if there is none; a last line that a kill cut off is dropped.

    Raises:
        DataError: another line is broken. The message names the line and the key.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    remedy = "remove this line"
    return [MetricsLine.parse(line, f"{path}: line {n}", remedy) for n, line in enumerate(lines, start=1)]


def read_provenance(folder: Path) -> Provenance | None:
    """Reads the `provenance.json` of an output folder, None if there is none. Raises DataError if it is
    broken."""
    path = folder / PROVENANCE
    return read_json(path, Provenance, "remove the file to go on without it") if path.exists() else None
