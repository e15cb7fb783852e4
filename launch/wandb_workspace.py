"""Saves a W&B workspace with the panels of `rft report`: `python launch/wandb_workspace.py ENTITY PROJECT`.

Needs `pip install wandb-workspaces` and a W&B login. `rft.report.panels` lays out the panels,
`rft.metrics.table` says which metrics they show.
"""

import sys

from rft.metrics.metric import Metric
from rft.report.panels import PANELS


def main(entity: str, project: str) -> None:
    """Saves the workspace and prints its URL."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(
            name=section,
            is_open=True,
            panels=[wr.LinePlot(title=p.title, x="train/global_step", **selected(p.metrics)) for p in panels],
        )
        for section, panels in PANELS.items()
    ]
    print(ws.Workspace(entity=entity, project=project, name="rft", sections=sections).save().url)


def selected(metrics: list[Metric]) -> dict[str, object]:
    """Returns the metrics of a panel as arguments of W&B's LinePlot."""
    if any(metric.is_family for metric in metrics):
        return {"metric_regex": "|".join(f"^train/{metric.pattern}$" for metric in metrics)}
    return {"y": [f"train/{metric.name}" for metric in metrics]}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python launch/wandb_workspace.py ENTITY PROJECT")
    main(*sys.argv[1:])
