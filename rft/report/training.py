"""`rft report RUN_DIR`: curves and samples of a training run as one self-contained page, from the files in
its output folder.

Invariant: everything comes from `metrics.jsonl`, `provenance.json` and `completions/`, nothing from W&B. The
page is rendered like the evaluation pages.
"""

import argparse
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from rft.errors import DataError
from rft.metrics import table
from rft.metrics.metric import Metric
from rft.records.summary import SUMMARY
from rft.records.training import METRICS, MetricsLine, read_metrics, read_provenance
from rft.report import charts
from rft.report.pages import Card, percent, write_page
from rft.report.panels import HEADLINES, OWN, PANELS, Panel

Completion = Mapping[str, Any]
"""A row of TRL's table of completions."""
Points = list[tuple[float, float]]

QUESTIONS = 4  # shown from the newest generation
LETTERS = "answer_letters/"
FACTS = {"git_commit": "commit of rft", "data_sha256": "data sha256"}
_OPTION = re.compile(r"^\(([a-z])\) (.+)$", re.M)
_CHOICES = "\n\nThis is a multiple-choice question. Options:\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `rft report`."""
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="output folder of a training run")
    parser.add_argument("--out", type=Path, help="file to write the page to (default: RUN_DIR/training.html)")


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    page = args.out or args.run / "training.html"
    write_report(args.run, page)
    print(page)
    return 0


def write_report(folder: Path, page: Path) -> None:
    """Writes the page of a training run.

    Args:
        folder: output folder of the run.
        page: the file to write.

    Raises:
        DataError: nothing was logged there, or the page cannot be written.
    """
    logged = read_metrics(folder / METRICS)
    rows = [row for row in logged if any(key in row.values for key in HEADLINES)]
    if not rows:
        raise DataError(
            f"{folder}: no {METRICS} with a logged step here; expected the output folder of a training run"
            + ("; the page of an evaluation is its report.html" if (folder / SUMMARY).is_file() else "")
        )
    headline = next(key for key in HEADLINES if any(key in row.values for row in rows))
    values = next(iter(find(rows, [table.named(headline)]).values()), None)
    if not values:
        raise DataError(f"{folder / METRICS}: {headline} is never a finite number; there is nothing to draw")
    chance = _chance(rows)
    sections: dict[str, list[dict[str, object]]] = {}
    missing = []
    for section, panels in PANELS.items():
        for panel in panels:
            series = find(rows, panel.metrics)
            if len(series) > 1 or (series and not panel.several):
                line = chance if panel.chance else None
                sections.setdefault(section, []).append(_figure(panel, series, panel.share, line))
            elif not panel.several:
                missing.append(panel.title)
    own = [
        _figure(Panel(name, "Logged by a reward of this run."), {name: points}, share=False)
        for name, points in find_own(rows).items()
    ]
    if own:
        sections[OWN] = own
    write_page(
        page,
        "training.html.jinja",
        run=folder.resolve().name,
        steps=logged[-1].step,
        headline=HEADLINES[headline],
        change=[_written(value, False) for value in _ends(values)],
        logged=len(values),
        window=_window(len(values)),
        is_smoothed=charts.smoothing(len(values)) > 0,
        cards=cards(rows),
        sections=sections,
        missing=missing,
        unreadable=_not_numbers(rows),
        facts=_facts(folder),
        newest=newest_questions(folder),
    )


def find(rows: Sequence[MetricsLine], metrics: Sequence[Metric]) -> dict[str, Points]:
    """Returns {name of the series: its (step, value) points} of each series that was logged.

    Args:
        rows: the lines of `metrics.jsonl`.
        metrics: metrics and families.
    """
    series: dict[str, Points] = {}
    logged = _names(rows)
    for metric in metrics:
        for key in (key for key in logged if table.find(key) is metric):
            if points := _points(rows, key):
                series[metric.series or charts.readable(metric.part(key))] = points
    return series


def find_own(rows: Sequence[MetricsLine]) -> dict[str, Points]:
    """Returns {name: its (step, value) points} of the metrics that the rewards of the run logged with
    `log_metric`: those that are not registered."""
    series = {key: _points(rows, key) for key in _names(rows) if table.find(key) is None}
    return {key: points for key, points in series.items() if points}


def _names(rows: Sequence[MetricsLine]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.values))


def _points(rows: Sequence[MetricsLine], key: str) -> Points:
    """Returns the values that are finite numbers."""
    return [(float(row.step), value) for row in rows if _is_number(value := row.values.get(key))]


def cards(rows: Sequence[MetricsLine]) -> list[Card]:
    """Returns the numbers at the top of the page, each with its value at the end and at the start."""
    top_cards = []
    for metric in table.REGISTRY.all:
        for points in find(rows, [metric]).values() if metric.card else ():
            start, end = (_written(value, metric.is_share) for value in _ends(points))
            top_cards.append((metric.card, end, f"{start} at the start" if len(points) > 1 else ""))
    return top_cards


def newest_questions(folder: Path) -> dict[str, object] | None:
    """Returns the best and the worst completion of a few questions of the newest generation on disk.

    These are the questions whose completions differ most. None if there is no generation.
    """
    files = sorted((folder / "completions").glob("completions_*.parquet"))
    if not files:
        return None
    import pandas as pd

    table = pd.read_parquet(files[-1])
    table["prompt"], table["completion"] = table["prompt"].map(_text), table["completion"].map(_text)
    keys = [key for key in ("history_id", "question_id", "prompt") if key in table]
    groups = [group.sort_values("advantage", ascending=False) for _, group in table.groupby(keys, sort=False)]
    groups.sort(key=lambda group: group["advantage"].iloc[-1] - group["advantage"].iloc[0])
    rewards = [key for key in table if key not in (*keys, "step", "completion", "answer", "advantage")]
    return {
        "step": int(table["step"].iloc[0]),
        "count": len(groups),
        "shown": [_question(group.to_dict("records"), rewards) for group in groups[:QUESTIONS]],
    }


def _question(rows: Sequence[Completion], rewards: Sequence[str]) -> dict[str, object]:
    """Returns a question as the page shows it. rows: its completions, best first."""
    query, choices, rest = rows[0]["prompt"].partition(_CHOICES)
    options = _OPTION.findall(rest) if choices else []
    best, worst = rows[0], rows[-1]
    differ = best["advantage"] > worst["advantage"]
    sides = {"best": best, "worst": worst} if differ else {"all have the same reward, one of them": best}
    return {
        "query": query,
        "options": options,
        "gold": _gold(best),
        "sides": [_side(name, row, rewards, [text for _, text in options]) for name, row in sides.items()],
    }


def _side(name: str, row: Completion, rewards: Sequence[str], options: Sequence[str]) -> dict[str, object]:
    """Returns a completion with its rewards, in the form that the other pages mark as right or wrong."""
    from reward import mcq_letter, personamem

    gold = _gold(row)
    reward_texts = [
        f"{charts.readable(key)} {charts.number(row[key])}" for key in rewards if _is_number(row.get(key))
    ]
    return {
        "name": name,
        "worth": ", ".join([*reward_texts, f"advantage {row['advantage']:+.2f}"]),
        "completion": row["completion"],
        "gold": gold,
        "answered": mcq_letter(row["completion"], len(options)) if gold else None,
        "score": personamem([row["completion"]], [gold], [options])[0] if gold else None,
        "ending": "",
        "finished": True,  # not recorded in the files
    }


def _gold(row: Completion) -> str | None:
    """Returns the gold letter; None if there is none (an open-ended question, a memory)."""
    return row["answer"] if isinstance(row.get("answer"), str) else None


def _chance(rows: Sequence[MetricsLine]) -> float | None:
    """Returns the share that guessing one of the letters gets right; None if the letters were not logged."""
    named = {key for row in rows for key in row.values if key.startswith(LETTERS)} - {f"{LETTERS}none"}
    return 1 / len(named) if named else None


def _figure(
    panel: Panel, series: Mapping[str, Points], share: bool, chance: float | None = None
) -> dict[str, object]:
    return {
        "title": panel.title,
        "hint": panel.hint,
        "chart": charts.curves(series, panel.title, share=share, chance=chance),
        "numbers": [
            (name, *(_written(value, share) for value in _ends(points))) for name, points in series.items()
        ],
    }


def _ends(points: Points) -> tuple[float, float]:
    """Returns the means of the first and of the last values."""
    values = [value for _, value in points]
    window = _window(len(values))
    return math.fsum(values[:window]) / window, math.fsum(values[-window:]) / window


def _window(count: int) -> int:
    """Returns how many of `count` logged values are averaged for the start and the end of a curve: a
    tenth."""
    return max(1, count // 10)


def _written(value: float, share: bool) -> str:
    return percent(value) if share else charts.number(value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _not_numbers(rows: Sequence[MetricsLine]) -> list[str]:
    """Returns the metrics that were NaN or infinite, with how often. Their curves have gaps."""
    counts = Counter(key for row in rows for key, value in row.values.items() if not math.isfinite(value))
    return [f"{key} ({times} of {len(rows)} steps)" for key, times in counts.items()]


def _facts(folder: Path) -> dict[str, str]:
    """Returns the entries of `provenance.json` with readable names."""
    record = read_provenance(folder)
    if record is None:
        return {}
    entries = record.dump()
    versions = ", ".join(f"{name} {version}" for name, version in entries.pop("versions").items())
    facts = {FACTS.get(key, charts.readable(key)): str(value) for key, value in entries.items()}
    return facts | ({"versions": versions} if versions else {})


def _text(content: Any) -> str:
    return (
        content
        if isinstance(content, str)
        else "\n".join(str(message.get("content", "")) for message in content)
    )
