"""Logs an evaluation to W&B: `summary.json` as summary and tables, the files of the folder as an artifact.

Invariant: nothing is computed here, so W&B shows the same numbers as the report.
"""

import re
from pathlib import Path

from rft.records.summary import Summary
from rft.runs import lineage

# the last only with memories
FILES = ("results.jsonl", "summary.json", "report.html", "run.json", "memory.html")
ABOUT = ("version", "model", "context", "split", "window", "data_sha256", "settings")


def track(summary: Summary, out: Path) -> None:
    """Logs one W&B run of job type "evaluate"; WANDB_PROJECT and WANDB_MODE set its project and mode.

    Args:
        summary: as returned by `evaluate`.
        out: folder of the evaluation.
    """
    import wandb

    record = summary.dump()
    config = {key: record[key] for key in ABOUT}
    name = f"{Path(summary.model).name}, {summary.context}"
    with wandb.init(job_type="evaluate", name=name, config=config, dir=str(out)) as run:
        lineage.use(run, lineage.dataset(summary.data_sha256))
        folder = Path(summary.model)
        if folder.is_dir() and (trained_in := lineage.trained_in(folder)):
            lineage.use(run, lineage.checkpoint(folder, trained_in, {"data_sha256": summary.data_sha256}))
        run.summary.update({key: value for key, value in record.items() if key not in (*ABOUT, "by")})
        columns: list[str | int] = ["value", "accuracy", "low", "high", "n", "accuracy_without_gate"]
        for category, table in summary.by.items():
            rows = [
                [value, cell.accuracy, *(cell.ci95 or (None, None)), cell.n, cell.accuracy_without_gate]
                for value, cell in table.items()
            ]
            run.log({f"by/{category}": wandb.Table(columns=columns, data=rows)})
        artifact = wandb.Artifact(
            re.sub(r"[^\w.-]+", "-", f"evaluation-{name}")[:128], type="evaluation", metadata=config
        )
        for path in (out / file for file in FILES):
            if path.exists():
                artifact.add_file(str(path))
        run.log_artifact(artifact)
