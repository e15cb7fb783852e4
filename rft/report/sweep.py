"""Report on several checkpoints of one training run: accuracy by step, with its interval.

Invariant: every point is a separate evaluation in its own folder. The page only puts them in order.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rft.files import write_whole


def step_of(name: str) -> int | None:
    """Returns the number at the end of a checkpoint's folder name: 200 for `out/checkpoint-200`."""
    found = re.search(r"(\d+)$", Path(name).name)
    return int(found[1]) if found else None


def write_sweep(summaries: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """Writes `sweep.json` and `report.html`.

    Args:
        summaries: {checkpoint: its summary}.
        out: the folder to write to.
    """
    from rft.report.evaluation import write_sweep_report

    keys = ("accuracy", "ci95", "n", "accuracy_without_gate", "format_rate", "unparsed_rate", "controls")
    points = [
        {
            "checkpoint": name,
            "folder": Path(name).name,
            "step": step_of(name),
            **{key: summary[key] for key in keys},
        }
        for name, summary in summaries.items()
    ]
    write_whole(out / "sweep.json", json.dumps(points, indent=1, ensure_ascii=False) + "\n")
    write_sweep_report(points, out / "report.html")
