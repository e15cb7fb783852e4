"""The reports: one self-contained HTML page each, for a screen, a phone or paper.

Invariant: a page loads nothing, runs no script but the question browser's own (its policy names that one's hash),
and is written whole or not at all; everything that comes from data is escaped. It is made from summaries and rows
alone, so it can be made again from a results folder.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rft.data.question import LETTERS
from rft.evaluate import browser, charts, published
from rft.evaluate.results import write_whole

CATEGORIES = {
    "pref_type": "Kind of preference",
    "who": "Whose preference",
    "updated": "Changed later",
    "scenario": "Where it was said",
    "distance": "Tokens since it was said",
    "pref_type_who": "Kind and whose",
    "history_length": "Length of the history, in tokens of 4 characters",
}
RUNS = {
    "grpo": "after GRPO",
    "memory": "memory",
    "memory_sft": "memory, cold start",
    "history_long": "whole long history",
    "sft": "cold start (SFT)",
    "blind": "without history",
    "longest_option": "longest option",
}
CONTROLS = {
    "blind": "the same model without the history",
    "longest": "always the longest option",
    "shortest": "always the shortest option",
    "any": "any of these",
}
LONGEST_COMPLETION = 4000  # characters shown of a completion


def write_evaluation_report(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """The page of one evaluation: headline with its controls and the published figures, a chart and a table per
    category, tokens, every question to search and filter.

    summary: as in `summary.json`; rows: as in `results.jsonl`. Raises DataError where the page cannot be
    written.
    """
    is_open = bool(rows[0].get("open_ended"))
    shown = [name for name in CATEGORIES if _worth_showing(name, summary)]
    beside = _beside(summary)
    found = browser.entries({"": rows})
    _write(
        path,
        "evaluation.html.jinja",
        found=found,
        summary=summary,
        is_open=is_open,
        controls={key: (CONTROLS[key], cell) for key, cell in summary["controls"].items()},
        beside=charts.intervals({"": beside}, "This run and its controls: accuracy with 95 % intervals", chance=not is_open)
        if beside
        else "",
        published=[(name, values[is_open]) for name, *values in published.OVERALL],
        published_by={key: [row[1:] for row in published.BY_CATEGORY if row[0] == key] for key in CATEGORIES},
        note=published.NOTE,
        categories=[_category(name, {"": summary["by"][name]}, chance=not is_open) for name in shown if summary["n"]],
        gold_letters={letter: sum(row["gold"] == letter for row in rows) for letter in LETTERS},
        transcripts=_sample(rows),
    )


def write_memory_report(summary: Mapping[str, Any], timelines: Iterable[Mapping[str, Any]], path: Path | str) -> None:
    """The memory page: a timeline per history, what each chunk added and removed, beside the questions.

    timelines: as `rft.evaluate.timeline.timelines` yields them. Raises DataError where the page cannot be written.
    """
    _write(path, "memory.html.jinja", summary=summary, timelines=timelines)


def write_comparison_report(
    comparison: Mapping[str, Any],
    runs: Mapping[str, tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]],
    path: Path | str,
) -> None:
    """The page of `rft compare`: paired differences over all, per category, and the questions that changed sides.

    comparison: as `rft.evaluate.compare.compare` gives it for `runs`. Raises DataError where the page cannot be
    written.
    """
    from rft.evaluate.compare import mean_scores

    against = comparison["against"]
    scores = [mean_scores(rows) for _, rows in runs.values()]
    moved = [
        entry
        for entry in browser.entries({name: rows for name, (_, rows) in runs.items()})
        if len({score.get(entry["id"]) for score in scores}) > 1
    ]
    overall = {name: {"difference": found["all"]["difference"], **found["all"]} for name, found in against.items()}
    _write(
        path,
        "comparison.html.jinja",
        found=moved,
        comparison=comparison,
        overall=charts.differences({"": overall}, "Differences from the first run, with 95 % intervals"),
        categories=[
            {
                "title": title,
                "chart": charts.differences({name: found["by"][key] for name, found in against.items()}, f"{title}: differences"),
                "tables": {name: found["by"][key] for name, found in against.items()},
            }
            for key, title in CATEGORIES.items()
            if _worth_showing(key, next(iter(against.values()))) and len(next(iter(against.values()))["by"][key]) > 1
        ],
    )


def write_sweep_report(points: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """The page of several checkpoints: the curve of accuracy by step, and a table with a link to each page.

    points: {checkpoint, folder, step, accuracy, ci95, n, ...} each. Raises DataError where the page cannot be written.
    """
    known = [point for point in points if point["accuracy"] is not None]
    stepped = [(float(point["step"]), point["accuracy"]) for point in known if point["step"] is not None]
    _write(
        path,
        "sweep.html.jinja",
        points=points,
        best=max(known, key=lambda point: point["accuracy"], default=None),
        curve=charts.curve(stepped, "Accuracy by step", share=True) if len(stepped) > 1 else None,
        overall=charts.intervals({"": {p["folder"]: p for p in known}}, "Accuracy of each checkpoint with its 95 % interval"),
    )


def _beside(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    shown = {"this run": summary} | {CONTROLS[key]: cell for key, cell in summary["controls"].items() if key != "any"}
    return {name: cell for name, cell in shown.items() if cell["accuracy"] is not None}


def _worth_showing(name: str, summary: Mapping[str, Any]) -> bool:
    """Whether a category is in the summary, and a cross of two labels says more than either."""
    if name != "pref_type_who":
        return name in summary["by"]
    return name in summary["by"] and len(summary["by"]["who"]) > 1


def write_quickstart_report(
    path: Path | str,
    *,
    summaries: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    transcripts: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    seconds: Mapping[str, float],
) -> None:
    """The page of a quickstart: what was learned, from what, and how it reads.

    summaries: evaluate summaries under the keys of RUNS; "sft" and "grpo" must be there. curves: {label:
    [(step, value), ...]}; values that all lie in 0..1 are drawn as shares. transcripts: (row before, row
    after) of one question each, see `pairs`. seconds: {stage: seconds}. Raises DataError where the page
    cannot be written.
    """
    runs = {RUNS[key]: summaries[key] for key in RUNS if key in summaries}
    drawn = [(label, points) for label, points in curves.items() if points]
    _write(
        path,
        "quickstart.html.jinja",
        runs=runs,
        grpo=summaries["grpo"],
        findings=learned(summaries),
        overall=charts.intervals({"": runs}, "Accuracy of each run with its 95 % interval"),
        curves=[(label, charts.curve(points, label, share=_is_share(points))) for label, points in drawn],
        categories=[
            _category(name, {label: summary["by"][name] for label, summary in runs.items()})
            for name in ("pref_type", "who", "updated", "scenario", "distance")
        ],
        transcripts=transcripts,
        seconds=seconds,
    )


def learned(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a quickstart shows, in a few plain sentences; the last lines on the terminal and in the report.

    summaries: as for `write_quickstart_report`.
    """
    before, after = summaries["sft"], summaries["grpo"]
    gain = after["accuracy"] - before["accuracy"]
    said = [
        f"GRPO took the model from {_percent(before['accuracy'])} to {_percent(after['accuracy'])} right answers "
        f"({100 * gain:+.1f} points) on {after['n']} questions about {after['personas']} people it never met "
        f"(95 % interval {_span(after['ci95'])}, before {_span(before['ci95'])}). Guessing gives 25 %."
    ]
    if "blind" in summaries:
        said.append(_on_control(summaries["blind"], "Without the history the same model gets", "the history"))
    if "longest_option" in summaries:
        said.append(_on_control(summaries["longest_option"], "Always taking the longest option gets", "reading the options"))
    moved = _by_kind(before, after)
    if len(moved) > 1:
        kind, low, high = max(moved, key=lambda item: item[2] - item[1])
        said.append(f"The largest gain is on {charts.readable(kind)}: {_percent(low)} before, {_percent(high)} after.")
        kind, low, high = min(moved, key=lambda item: item[2])
        said.append(f"Hardest to the end is {charts.readable(kind)}: {_percent(high)} (before: {_percent(low)}).")
    if "memory" in summaries:
        said += _on_memory(summaries)
    return said


def _on_memory(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    memory = summaries["memory"]
    said = f"From its memory alone it gets {_percent(memory['accuracy'])} (95 % interval {_span(memory['ci95'])})"
    if "memory_sft" in summaries:
        said += f", {_percent(summaries['memory_sft']['accuracy'])} before GRPO"
    found = [said + "."]
    if "history_long" in summaries:
        whole = summaries["history_long"]
        read, all_of_it = memory["input_tokens_per_question"], whole["input_tokens_per_question"]
        found.append(
            f"It reads {read:,.0f} tokens for a question; a model trained on the same histories as a whole reads "
            f"{all_of_it:,.0f} ({all_of_it / read:.1f} times as many) and gets {_percent(whole['accuracy'])}."
        )
    if "forget" in summaries and summaries["forget"]["forgotten"]["rate"] is not None:
        gone = summaries["forget"]["forgotten"]
        found.append(
            f"Of {gone['written']} things that users asked to forget and that stood in a memory, {gone['gone']} are gone "
            f"({_percent(gone['rate'])})."
        )
    return found


def pairs(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], count: int = 6
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(row before, row after) of `count` questions to read side by side: mostly those that turned from wrong to
    right, one that is still or newly wrong where there is one, of as many kinds as possible.
    """
    then = {row["id"]: row for row in before}
    both = [(then[row["id"]], row) for row in sorted(after, key=_order) if row["id"] in then]
    gained = [pair for pair in both if pair[1]["score"] > pair[0]["score"]]
    wrong = [pair for pair in both if not pair[1]["score"]]
    kept = [pair for pair in both if pair[1]["score"] and pair[0]["score"]]
    chosen = _spread(gained, count - bool(wrong)) + _spread(wrong, 1)
    chosen += _spread(kept, count - len(chosen))
    return chosen


def _sample(rows: Sequence[Mapping[str, Any]], each: int = 3) -> list[Mapping[str, Any]]:
    """A few rows to read: wrong, unreadable and right ones, of as many kinds as possible."""
    rows = sorted(rows, key=_order)
    wrong = [(row, row) for row in rows if not row["score"] and row["answered"]]
    unread = [(row, row) for row in rows if row["answered"] is None]
    right = [(row, row) for row in rows if row["score"]]
    return [row for group in (wrong, unread, right) for row, _ in _spread(group, each)]


def _spread(
    candidates: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], count: int
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """`count` of the candidates: one of each kind of preference in turn, another persona where possible."""
    chosen: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    left = list(candidates)
    while left and len(chosen) < count:
        kinds = [row["labels"]["pref_type"] for row, _ in chosen]
        people = [row["persona_id"] for row, _ in chosen]
        best = min(
            left,
            key=lambda pair: (
                kinds.count(pair[0]["labels"]["pref_type"]),
                people.count(pair[0]["persona_id"]),
            ),
        )
        left.remove(best)
        chosen.append(best)
    return chosen


def _order(row: Mapping[str, Any]) -> tuple[int, str]:
    return (len(row["id"]), row["id"])


def _category(name: str, tables: Mapping[str, Mapping[str, Any]], *, chance: bool = True) -> dict[str, Any]:
    """A category with its chart and, under the values, the cells of each run (None where it has none)."""
    tables = {
        run: {value: cell for value, cell in table.items() if cell["accuracy"] is not None} for run, table in tables.items()
    }
    values = list(dict.fromkeys(value for table in tables.values() for value in table))
    title = CATEGORIES[name]
    return {
        "name": name,
        "title": title,
        "chart": charts.intervals(tables, f"{title}: accuracy with 95 % intervals", chance=chance),
        "runs": list(tables),
        "rows": [(value, [table.get(value) for table in tables.values()]) for value in values],
    }


def _by_kind(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(kind of preference, accuracy before, accuracy after)"""
    then, now = before["by"]["pref_type"], after["by"]["pref_type"]
    return [(kind, then[kind]["accuracy"], now[kind]["accuracy"]) for kind in now if kind in then]


def _on_control(summary: Mapping[str, Any], does: str, source: str) -> str:
    low, high = summary["ci95"]
    verdict = (
        f"no better than guessing, so {source} cannot explain what it knows"
        if source != "the history"
        else "no better than guessing, so what it knows it reads in the history"
    )
    if low > charts.CHANCE:
        verdict = "more than guessing, so a part of the score does not come from the history"
    elif high < charts.CHANCE:
        verdict = "less than guessing"
    return f"{does} {_percent(summary['accuracy'])} (95 % interval {_span(summary['ci95'])}): {verdict}."


def _is_share(points: Sequence[tuple[float, float]]) -> bool:
    return all(0 <= value <= 1 for _, value in points)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _count(tokens: float | None) -> str:
    return "not given" if tokens is None else f"{tokens:,.0f}"


def _span(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _shown(completion: str) -> Iterator[tuple[str, str]]:
    """(css class, text) of a completion's thought and answer, shortened where it is very long."""
    cut = len(completion) - LONGEST_COMPLETION
    text = completion[:LONGEST_COMPLETION]
    thought, tag, answer = text.rpartition("</think>")
    if tag:
        yield "thought", thought + tag
    yield "said", answer if tag else text
    if cut > 0:
        yield "note", f"… and {cut:,} characters more"
    if not completion.strip():
        yield "note", "(an empty completion)"


def _write(path: Path | str, template: str, found: Sequence[Mapping[str, Any]] = (), **values: Any) -> None:
    """found: the entries of the question browser; without any, the page has no script."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("rft.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "percent": _percent,
        "count": _count,
        "span": _span,
        "points": _points,
        "duration": _duration,
        "readable": charts.readable,
        "shown": _shown,
    }
    script, policy = browser.script() if found else ("", "")
    page = pages.get_template(template).render(
        letters=LETTERS, questions=browser.data(found) if found else "", script=script, script_policy=policy, **values
    )
    write_whole(Path(path), page)
