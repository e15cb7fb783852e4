"""The evaluation reports: one self-contained HTML page each, for a screen, a phone or paper.

Invariant: a page is made from summaries and rows only, so it can be rebuilt from a results folder.
`rft.report.pages` renders and saves it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from reward.mcq import LETTERS
from rft.metrics.table import REGISTRY, SUMMARY
from rft.records.comparison import Against, Comparison, Difference
from rft.records.row import ResultRow, mean_scores
from rft.records.summary import Cell, Control, Measure, Summary, SweepPoint
from rft.report import browser, charts, published
from rft.report.pages import INTERVAL, Card, count, percent, span, write_page
from rft.report.sentences import consistently, learned, on_controls, title_of
from rft.tasks.load import task_named

RUNS = {
    "grpo": "after GRPO",
    "memory": "memory",
    "memory_sft": "memory, cold start",
    "sft": "cold start (SFT)",
    "blind": "without history",
    "longest_option": "longest option",
}
CONTROLS = {
    "blind": "the same model without the history",
    "longest": "always the longest option",
    "shortest": "always the shortest option",
    "strongest": "the strongest rule without the history",
}


def write_evaluation_report(summary: Summary, rows: Sequence[ResultRow], path: Path | str) -> None:
    """Writes the page of one evaluation.

    It contains the headline with its controls and the published figures, a chart and a table per category,
    the tokens used, and every question to search and filter.

    Args:
        summary: as in `summary.json`.
        rows: as in `results.jsonl`.
        path: the page to write.

    Raises:
        DataError: the page cannot be written.
    """
    is_open = all(row.open_ended for row in rows)
    chance = None if is_open else summary.guessing
    shown = [name for name in summary.by if _worth_showing(name, summary.by, summary.task)]
    known = published.OF_TASKS.get(summary.task, published.Published())
    most = 0 if is_open else max(len(row.options) for row in rows)
    beside = _beside(summary)
    entries = browser.entries({"": rows})
    write_page(
        path,
        "evaluation.html.jinja",
        entries=entries,
        summary=summary,
        headline=consistently(summary),
        consistent=" and consistent" if summary.right_and_consistent is not None else "",
        cards=cards(summary),
        is_open=is_open,
        chance=chance,
        controls={key: (_control_name(key, cell), cell) for key, cell in summary.controls.items()},
        on_controls=[] if is_open else on_controls(summary),
        beside=(
            charts.intervals(
                {"": beside}, f"This run and its controls: accuracy with {INTERVAL}s", chance=chance
            )
            if beside
            else ""
        ),
        published=[
            *((name, values[is_open]) for name, *values in known.overall),
            *((f"{name} ({metric}; {source})", value) for name, metric, value, source in summary.published),
        ],
        published_by={key: [row[1:] for row in known.by_category if row[0] == key] for key in shown},
        note=published.NOTE,
        source=known.source,
        categories=[
            _category(name, title_of(name, summary.task), {"": summary.by[name]}, chance=chance)
            for name in shown
            if summary.n
        ],
        gold_letters={letter: sum(row.gold == letter for row in rows) for letter in LETTERS[:most]},
        transcripts=_sample(rows),
    )


def write_memory_report(summary: Summary, timelines: Iterable[object], path: Path | str) -> None:
    """Writes the memory page: a timeline per history with what each chunk added and removed, next to the
    questions.

    Args:
        summary: as in `summary.json`.
        timelines: as yielded by `rft.evaluate.timeline.timelines`.
        path: the page to write.

    Raises:
        DataError: the page cannot be written.
    """
    shown = ("input_tokens_per_question", "input_tokens_with_writing")
    top = [("right", percent(summary.accuracy), span(summary.ci95)), *cards(summary, shown)]
    write_page(path, "memory.html.jinja", summary=summary, cards=top, timelines=timelines)


def cards(summary: Summary, keys: Collection[str] | None = None) -> list[Card]:
    """Returns the numbers at the top of a page.

    They are the metrics with a card that the summary has (only `keys`, if given), then how much was
    forgotten, how many memory lines are right, and the accuracy of a fixed reader.
    """
    top_cards: list[Card] = []
    for metric in REGISTRY.of_file(SUMMARY):
        key, value = metric.name, getattr(summary, metric.name)
        if not metric.card or value is None or (keys is not None and key not in keys):
            continue
        if value or key != "refused_rate":  # shown only if there was one
            top_cards.append((metric.card, percent(value) if metric.is_share else count(value), ""))
    gone, lines, reader = summary.forgotten, summary.lines, summary.reader
    if gone is not None and gone.rate is not None:
        note = f"{gone.gone} of {gone.written} that were once written"
        top_cards.append(("withdrawn facts removed from the memory", percent(gone.rate), note))
    if lines is not None:
        top_cards.append(("lines of the memory right", percent(lines.right_rate), span(lines.ci95)))
    if reader is not None:
        top_cards.append(("right, answered by the fixed reader", percent(reader.accuracy), span(reader.ci95)))
    return top_cards


def write_comparison_report(
    comparison: Comparison, runs: Mapping[str, tuple[Summary, Sequence[ResultRow]]], path: Path | str
) -> None:
    """Writes the page of `rft compare`: paired differences overall and per category, and the questions with
    changed scores.

    Args:
        comparison: the result of `rft.evaluate.comparison.compare` for `runs`.
        runs: {name: (summary, rows)}.
        path: the page to write.

    Raises:
        DataError: the page cannot be written.
    """
    against = comparison.against
    scores = [mean_scores(rows) for _, rows in runs.values()]
    moved = [
        entry
        for entry in browser.entries({name: rows for name, (_, rows) in runs.items()})
        if len({score.get(str(entry["id"])) for score in scores}) > 1
    ]
    overall = {name: result.all for name, result in against.items()}
    by, task = next(iter(against.values())).by, next(iter(runs.values()))[0].task
    shown = [key for key in by if _worth_showing(key, by, task)]
    categories = {title_of(key, task): _in_order(against, runs, key) for key in shown}
    write_page(
        path,
        "comparison.html.jinja",
        entries=moved,
        comparison=comparison,
        overall=charts.differences({"": overall}, f"Differences from the first run, with {INTERVAL}s"),
        categories=[
            {"title": title, "chart": charts.differences(tables, f"{title}: differences"), "tables": tables}
            for title, tables in categories.items()
            if any(len(table) > 1 for table in tables.values())
        ],
    )


def _in_order(
    against: Mapping[str, Against], runs: Mapping[str, tuple[Summary, Sequence[ResultRow]]], key: str
) -> dict[str, dict[str, Difference]]:
    """Returns a category's table of each compared run, with values in the order of the first run's page."""
    order = next(iter(runs.values()))[0].by.get(key, {})
    tables = {name: result.by[key] for name, result in against.items()}
    return {
        name: {value: table[value] for value in (*order, *table) if value in table}
        for name, table in tables.items()
    }


def write_sweep_report(points: Sequence[SweepPoint], path: Path | str, chance: float | None) -> None:
    """Writes the page of several checkpoints: the curve of accuracy by step, and a table.

    Args:
        points: one per checkpoint.
        chance: the accuracy of guessing; None if no question has options.
        path: the page to write.

    Raises:
        DataError: the page cannot be written.
    """
    evaluated = [(point.accuracy, point) for point in points if point.accuracy is not None]
    stepped = [(float(point.step), accuracy) for accuracy, point in evaluated if point.step is not None]
    write_page(
        path,
        "sweep.html.jinja",
        points=points,
        best=max(evaluated, key=lambda item: item[0], default=(0.0, None))[1],
        curve=(
            charts.curves({"": stepped}, "Accuracy by step", share=True, chance=chance)
            if len(stepped) > 1
            else None
        ),
        overall=charts.intervals(
            {"": {point.folder: point for _, point in evaluated}},
            f"Accuracy of each checkpoint with its {INTERVAL}",
            chance=chance,
        ),
    )


def _beside(summary: Summary) -> dict[str, Measure]:
    shown: dict[str, Measure] = {"this run": summary}
    shown |= {_control_name(key, cell): cell for key, cell in summary.controls.items()}
    return {name: cell for name, cell in shown.items() if cell.accuracy is not None}


def _control_name(key: str, cell: Control) -> str:
    name = CONTROLS.get(key) or charts.readable(key)
    return f"{name}: {cell.rule}" if cell.rule is not None else name


def _worth_showing(name: str, by: Mapping[str, Collection[str]], task: str) -> bool:
    """Whether there is such a breakdown. A cross of two labels must also add something to each of them."""
    crossed = task_named(task).crosses.get(name)
    return crossed is None or len(by.get(crossed, ())) > 1


def write_quickstart_report(
    path: Path | str,
    *,
    summaries: Mapping[str, Summary],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    transcripts: Sequence[tuple[ResultRow, ResultRow]],
    seconds: Mapping[str, float],
) -> None:
    """Writes the page of a quickstart: results, training curves, and answers before and after GRPO.

    All figures count answers that are right and consistent.

    Args:
        path: the page to write.
        summaries: evaluation summaries, with the keys of RUNS; "sft" and "grpo" are required.
        curves: {label: [(step, value), ...]}. A label that ends in "reward" or "val" is a share, drawn in
            percent.
        transcripts: (row before, row after) of one question each, see `pairs`.
        seconds: {stage: seconds}.

    Raises:
        DataError: the page cannot be written.
    """
    summaries = {key: consistently(summary) for key, summary in summaries.items()}
    chance, task = summaries["grpo"].guessing, summaries["grpo"].task
    runs = {RUNS[key]: summaries[key] for key in RUNS if key in summaries}
    drawn = [(label, points, label.endswith(("reward", "val"))) for label, points in curves.items() if points]
    write_page(
        path,
        "quickstart.html.jinja",
        cards=[(label, percent(summary.accuracy), span(summary.ci95)) for label, summary in runs.items()],
        headline=percent(summaries["grpo"].accuracy),
        data_sha256=summaries["grpo"].data_sha256,
        findings=learned(summaries),
        overall=charts.intervals(
            {"": runs}, f"Right and consistent: each run with its {INTERVAL}", chance=chance
        ),
        curves=[
            (label, charts.curves({"": points}, label, share=is_share, chance=chance if is_share else None))
            for label, points, is_share in drawn
        ],
        categories=[
            _category(
                name,
                title_of(name, task),
                {label: summary.by[name] for label, summary in runs.items()},
                chance=chance,
            )
            for name in ("kind", "scenario", "distance")
        ],
        transcripts=transcripts,
        seconds=seconds,
    )


def pairs(
    before: Sequence[ResultRow], after: Sequence[ResultRow], count: int = 6
) -> list[tuple[ResultRow, ResultRow]]:
    """Returns (row before, row after) of `count` questions to read side by side.

    Most of them changed from wrong to right. One is wrong after GRPO, if there is one. The kinds vary as much
    as possible.
    """
    then = {row.id: row for row in before}
    rows = [row for row in sorted(after, key=_order) if row.id in then]
    gained = [row for row in rows if (row.score or 0.0) > (then[row.id].score or 0.0)]
    wrong = [row for row in rows if not row.score]
    kept = [row for row in rows if row.score and then[row.id].score]
    chosen = _spread(gained, count - bool(wrong)) + _spread(wrong, 1)
    chosen += _spread(kept, count - len(chosen))
    return [(then[row.id], row) for row in chosen]


def _sample(rows: Sequence[ResultRow], per_group: int = 3) -> list[ResultRow]:
    """Returns a few rows to read: wrong, unreadable and right ones, of as many kinds as possible."""
    rows = sorted(rows, key=_order)
    wrong = [row for row in rows if not row.score and row.answered]
    unread = [row for row in rows if row.answered is None]
    correct = [row for row in rows if row.score]
    return [row for group in (wrong, unread, correct) for row in _spread(group, per_group)]


def _spread(candidates: Sequence[ResultRow], count: int) -> list[ResultRow]:
    """Chooses `count` candidates: each kind in turn, and a different persona if possible."""
    chosen: list[ResultRow] = []
    left = list(candidates)
    while left and len(chosen) < count:
        kinds = [browser.shown_labels(row).kind for row in chosen]
        people = [row.persona_id for row in chosen]
        place = min(
            range(len(left)),
            key=lambda i: (kinds.count(browser.shown_labels(left[i]).kind), people.count(left[i].persona_id)),
        )
        chosen.append(left.pop(place))
    return chosen


def _order(row: ResultRow) -> tuple[int, str]:
    return (len(row.id), row.id)


def _category(
    name: str, title: str, tables: Mapping[str, Mapping[str, Cell]], *, chance: float | None
) -> dict[str, object]:
    """Returns a category with its chart and, for each value, the cell of each run (None if the run has
    none)."""
    tables = {
        run: {value: cell for value, cell in table.items() if cell.accuracy is not None}
        for run, table in tables.items()
    }
    values = list(dict.fromkeys(value for table in tables.values() for value in table))
    return {
        "name": name,
        "title": title,
        "chart": charts.intervals(tables, f"{title}: accuracy with {INTERVAL}s", chance=chance),
        "runs": list(tables),
        "rows": [(value, [table.get(value) for table in tables.values()]) for value in values],
    }
