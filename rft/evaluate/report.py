"""The reports: one self-contained HTML page each, for a screen, a phone or paper.

Invariant: a page loads nothing, runs nothing and is written whole or not at all; everything that comes from
data is escaped. It is made from summaries and rows alone, so it can be made again from a results folder.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rft.data.question import LETTERS
from rft.evaluate import charts
from rft.evaluate.results import write_whole

CATEGORIES = {
    "pref_type": "Kind of preference",
    "who": "Whose preference",
    "updated": "Changed later",
    "scenario": "Where it was said",
    "distance": "Tokens since it was said",
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
LONGEST_COMPLETION = 4000  # characters shown of a completion


def write_evaluation_report(
    summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: Path | str
) -> None:
    """The page of one evaluation: headline, a chart and a table per category, letters, a few transcripts.

    summary: as in `summary.json`; rows: as in `results.jsonl`. Raises DataError where the page cannot be
    written.
    """
    categories = [_category(name, {"": summary["by"][name]}) for name in CATEGORIES if name in summary["by"]]
    _write(
        path,
        "evaluation.html.jinja",
        summary=summary,
        categories=categories,
        gold_letters={letter: sum(row["gold"] == letter for row in rows) for letter in LETTERS},
        transcripts=_sample(rows),
    )


def write_memory_report(
    summary: Mapping[str, Any], timelines: Iterable[Mapping[str, Any]], path: Path | str
) -> None:
    """The memory page: a timeline per history, what each chunk added and removed, beside the questions.

    timelines: as `rft.evaluate.memory.timelines` yields them. Raises DataError where the page cannot be
    written.
    """
    _write(path, "memory.html.jinja", summary=summary, timelines=timelines)


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
            for name in CATEGORIES
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
        said.append(
            _on_control(
                summaries["longest_option"], "Always taking the longest option gets", "reading the options"
            )
        )
    moved = _by_kind(before, after)
    if len(moved) > 1:
        kind, low, high = max(moved, key=lambda item: item[2] - item[1])
        said.append(
            f"The largest gain is on {charts.readable(kind)}: {_percent(low)} before, {_percent(high)} after."
        )
        kind, low, high = min(moved, key=lambda item: item[2])
        said.append(
            f"Hardest to the end is {charts.readable(kind)}: {_percent(high)} (before: {_percent(low)})."
        )
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
            f"It reads {read:,.0f} tokens for a question; with the whole history in sight the model reads {all_of_it:,.0f} "
            f"({all_of_it / read:.1f} times as many) and gets {_percent(whole['accuracy'])}."
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


def _category(name: str, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A category with its chart and, under the values, the cells of each run (None where it has none)."""
    values = list(dict.fromkeys(value for table in tables.values() for value in table))
    title = CATEGORIES[name]
    return {
        "title": title,
        "chart": charts.intervals(tables, f"{title}: accuracy with 95 % intervals"),
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


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _span(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


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


def _write(path: Path | str, template: str, **values: Any) -> None:
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
        "span": _span,
        "duration": _duration,
        "readable": charts.readable,
        "shown": _shown,
    }
    write_whole(Path(path), pages.get_template(template).render(letters=LETTERS, **values))
