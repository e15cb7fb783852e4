"""The curve over several checkpoints of one training run: accuracy, with its interval, by step.

Invariant: every point is an evaluation of its own in a folder of its own; the page adds nothing but their order.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rft.files import write_whole


def step_of(name: str) -> int | None:
    """The number that a checkpoint's folder ends in: 200 of `out/checkpoint-200`."""
    found = re.search(r"(\d+)$", Path(name).name)
    return int(found[1]) if found else None


def write_sweep(summaries: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """`sweep.json` and `report.html` for {checkpoint: its summary}."""
    from rft.report.evaluation import write_sweep_report

    keys = ("accuracy", "ci95", "n", "accuracy_without_gate", "format_rate", "unparsed_rate", "controls")
    points = [
        {"checkpoint": name, "folder": Path(name).name, "step": step_of(name), **{key: summary[key] for key in keys}}
        for name, summary in summaries.items()
    ]
    write_whole(out / "sweep.json", json.dumps(points, indent=1, ensure_ascii=False) + "\n")
    write_sweep_report(points, out / "report.html")
