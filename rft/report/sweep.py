"""Report on several checkpoints of one training run: accuracy by step, with its interval.

Invariant: every point is a separate evaluation in its own folder. The page only puts them in order.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from rft.files import write_whole
from rft.records.summary import Summary, SweepPoint


def step_of(name: str) -> int | None:
    """Returns the number at the end of a checkpoint's folder name: 200 for `out/checkpoint-200`."""
    match = re.search(r"(\d+)$", Path(name).name)
    return int(match[1]) if match else None


def write_sweep(summaries: Mapping[str, Summary], out: Path) -> None:
    """Writes `sweep.json` and `report.html`.

    Args:
        summaries: {checkpoint: its summary}.
        out: the folder to write to.
    """
    from rft.report.evaluation import write_sweep_report

    points = [
        SweepPoint(
            checkpoint=name,
            folder=Path(name).name,
            step=step_of(name),
            accuracy=summary.accuracy,
            ci95=summary.ci95,
            n=summary.n,
            accuracy_without_gate=summary.accuracy_without_gate,
            format_rate=summary.format_rate,
            unparsed_rate=summary.unparsed_rate,
            controls=summary.controls,
        )
        for name, summary in summaries.items()
    ]
    records = [point.dump() for point in points]
    write_whole(out / "sweep.json", json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    first = next(iter(summaries.values()))
    chance = None if first.right_and_consistent is None else first.guessing
    write_sweep_report(points, out / "report.html", chance)
