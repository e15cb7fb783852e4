"""The page of all metrics: `python -m rft.metrics.page docs/metrics.md` writes it.

Invariant: docs/metrics.md is what this module makes from the table; a test compares them.
"""

import sys
from pathlib import Path

from rft.files import write_whole
from rft.metrics.metric import LOG, SUMMARY, Metric
from rft.metrics.table import REGISTRY

PAGE = """# Metrics

Written by `python -m rft.metrics.page docs/metrics.md` from `rft/metrics/table.py`: change them there.

A share is between 0 and 1, and pages show it in percent. A metric without a value is absent, not 0: for
example, those that need a letter, if the questions have no options or no reward of the recipe can take the
column `answer`. Names in capitals stand for any value: KIND for a kind of question (plain, changed,
withdrawn, others, sensitive), NAME for a reward function, LETTER for a letter or none.

## In training: `metrics.jsonl`

One line per log. With `logging_steps` above 1, it has the mean over these steps. W&B shows the same names
under `train/`, in the charts and sections of `rft report` (`python launch/wandb_workspace.py ENTITY PROJECT`
saves them as a workspace).

{training}

## In an evaluation: `summary.json`

{evaluation}

## One of your own

A reward logs it: `log_metric(name, number)` ([write a reward](rewards.md#a-metric-of-your-own)). It is in
`metrics.jsonl` and in W&B under that name, as the mean over all its values, and has a chart of its own on the
page of `rft report`. rft itself stays as it is.

## To add one to rft

Add an entry to the table. `of` computes its values from all rollouts of a step, on all ranks; `panel` is the
title of a chart in `rft/report/panels.py`. Then it is logged, on the page of `rft report`, and in the W&B
workspace; write this page again.
"""


def page() -> str:
    """Returns the page as Markdown."""
    return PAGE.format(training=_table(LOG), evaluation=_table(SUMMARY))


def _table(file: str) -> str:
    rows = [_row(metric, file) for metric in REGISTRY.of_file(file)]
    return "\n".join(["| name | meaning | unit | how it adds up | shown |", "|---|---|---|---|---|", *rows])


def _row(metric: Metric, file: str) -> str:
    chart = metric.panel if file == LOG else ""  # of a training's page
    places = [place for place in (chart, "top of the page" if metric.card else "") if place]
    cells = (f"`{metric.name}`", metric.meaning, metric.unit, metric.how, "; ".join(places))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    write_whole(Path(sys.argv[1]), page())
