"""Results of an evaluation or a quickstart in plain sentences.

Invariant: a sentence claims no more than its numbers support, overall and in each category that is large
enough to judge.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from rft.data import rules
from rft.records.summary import Cell, Control, Measure, Statistics, Summary
from rft.report import charts
from rft.report.pages import INTERVAL, NBSP, percent, span
from rft.tasks.load import task_named

HISTORY_LENGTH = "Length of the history, in tokens of 4 characters"


C = TypeVar("C", bound=Cell)


def title_of(name: str, task: str) -> str:
    """Returns the title of a breakdown."""
    if name == "history_length":
        return HISTORY_LENGTH
    return task_named(task).titles.get(name) or charts.readable(name).capitalize()


def consistently(summary: C) -> C:
    """Returns the summary with the share of right and consistent answers as its accuracy, in every category
    too.

    A summary of questions without options is returned unchanged.
    """
    if summary.right_and_consistent is None:
        return summary
    updates: dict[str, object] = {
        "accuracy": summary.right_and_consistent,
        "ci95": summary.right_and_consistent_ci95,
    }
    if isinstance(summary, Statistics):
        updates["by"] = {
            name: {value: consistently(cell) for value, cell in table.items()}
            for name, table in summary.by.items()
        }
    return summary.model_copy(update=updates)


def learned(summaries: Mapping[str, Summary]) -> list[str]:
    """Describes the results of a quickstart in a few sentences, for the end of the terminal output and for
    the report.

    Args:
        summaries: as for `write_quickstart_report`.
    """
    before, after = consistently(summaries["sft"]), consistently(summaries["grpo"])
    gain = (after.accuracy or 0.0) - (before.accuracy or 0.0)
    sentences = [
        (
            f"With GRPO, right and consistent answers went from {percent(before.accuracy)} to"
            f" {percent(after.accuracy)} ({100 * gain:+.1f} points) on {after.n} questions about"
            f" {after.personas} held-out personas ({INTERVAL} {span(after.ci95)}, before"
            f" {span(before.ci95)}). Guessing gives {100 * after.guessing:.0f}{NBSP}%."
        ),
        *_on_words(before, after),
    ]
    for key, does, source in (
        ("blind", "Without the history, the same model gets", "the history"),
        ("longest_option", "Always choosing the longest option gets", "reading the options"),
    ):
        if key in summaries:
            sentences.append(_on_control(summaries[key], does, source, after))
    if "strongest" in after.controls:
        sentences.append(_on_rules(after.controls["strongest"], after.task))
    sentences += _on_kinds(_by_kind(before, after))
    if "memory" in summaries:
        sentences += _on_memory(summaries)
    return sentences


def _on_words(before: Statistics, after: Statistics) -> list[str]:
    """Describes how often the words name the gold option and agree with the box."""
    if after.thought_right is None:
        return []
    sentence = (
        f"The thought names the gold option in {percent(after.thought_right)} of the answers (before GRPO:"
        f" {percent(before.thought_right)})"
    )
    if after.consistent is not None:
        sentence += (
            f"; words and box agree in {percent(after.consistent)} (before: {percent(before.consistent)})"
        )
    return [sentence + "."]


def _on_kinds(moved: Sequence[tuple[str, float, float]]) -> list[str]:
    """Names the kind that gained most, the kind that lost most, and the kind with the lowest accuracy after
    GRPO.

    A kind is named at most once. A gain or loss of zero is not reported, and equal kinds have no lowest one.

    Args:
        moved: (kind, accuracy before, accuracy after) of each kind.
    """
    if len(moved) < 2:
        return []
    gained, lost = (pick(moved, key=lambda item: item[2] - item[1]) for pick in (max, min))
    lowest = min(moved, key=lambda item: item[2])
    is_lowest = lowest[2] < max(high for _, _, high in moved)
    changes = [("gain", gained)] * (gained[2] > gained[1]) + [("loss", lost)] * (lost[2] < lost[1])
    sentences = [
        f"The largest {change} is on"
        f" {_moved(item)}{', still the lowest' if is_lowest and item is lowest else ''}."
        for change, item in changes
    ]
    if is_lowest and all(item is not lowest for _, item in changes):
        sentences.append(f"The lowest accuracy after GRPO is on {_moved(lowest)}.")
    return sentences


def _moved(item: tuple[str, float, float]) -> str:
    kind, low, high = item
    return f"{charts.readable(kind)}: {percent(low)} before, {percent(high)} after"


def _on_memory(summaries: Mapping[str, Summary]) -> list[str]:
    """Describes the memories: correct lines, accuracy of the writer and of a fixed reader, and tokens read
    per question."""
    summaries = {key: consistently(summary) for key, summary in summaries.items()}
    memory, before = summaries["memory"], summaries.get("memory_sft")
    sentences = []
    if written := memory.lines:
        then = _before(before.lines.right_rate if before and before.lines else None)
        sentences.append(
            f"Of the {written.targets:,} lines that {written.memories} memories should contain, "
            f"{percent(written.right_rate)} are right ({INTERVAL} {span(written.ci95)}){then}."
        )
    sentences.append(
        f"From its memory alone, the model gets {percent(memory.accuracy)} ({INTERVAL} {span(memory.ci95)})"
        f"{_before(before.accuracy if before else None)}."
    )
    if before and memory.reader:
        reader = consistently(memory.reader)
        sentences.append(
            f"A fixed reader, the cold start, gets {percent(reader.accuracy)} ({INTERVAL}"
            f" {span(reader.ci95)}) from the same memories and {percent(before.accuracy)} from its own."
        )
    read = memory.input_tokens_per_question
    all_of_it = summaries["grpo"].input_tokens_per_question
    if read and all_of_it:
        sentences.append(
            f"It reads {read:,.0f} tokens per question. Reading the full history takes {all_of_it:,.0f}"
            f" tokens ({all_of_it / read:.1f} times as many) and gets"
            f" {percent(summaries['grpo'].accuracy)}."
        )
    gone = summaries["forget"].forgotten if "forget" in summaries else None
    if gone is not None and gone.rate is not None:
        sentences.append(
            f"Of {gone.written} facts that were in a memory and that users asked to forget, {gone.gone}"
            f" are gone ({percent(gone.rate)})."
        )
    return sentences


def _before(share: float | None) -> str:
    """Returns the same number of the cold start, to append to that of the run; "" if there is none."""
    return "" if share is None else f", {percent(share)} before GRPO"


def on_controls(summary: Summary) -> list[str]:
    """Describes what the controls of an evaluation show, overall and in each category that is large enough to
    judge."""
    sentences = []
    if (blind := summary.controls.get("blind")) is not None and blind.accuracy is not None:
        sentences.append(
            _on_control(blind, "Without the history, the same model gets", "the history", summary)
        )
    if (best := summary.controls.get("strongest")) is not None:
        sentences.append(_on_rules(best, summary.task))
    return sentences


def _on_control(summary: Statistics | Control, does: str, source: str, of_run: Summary) -> str:
    """Describes a control: at chance, if that holds overall and in each large category; otherwise names the
    categories above.

    `rules.bar` defines when a category is above chance. It depends on how many categories there are, since
    the best of many is above chance by luck.
    """
    low, high = summary.ci95 or (0.0, 1.0)
    chance, cells = of_run.guessing, _cells(summary.by or {}, of_run.task)
    above = [
        f"{name} ({percent(cell.accuracy)} of {cell.n:,})"
        for name, cell in cells.items()
        if cell.accuracy is not None and cell.accuracy > rules.bar(cell.n, len(cells), chance)
    ]
    if low > chance:
        verdict = "more than guessing, so a part of the score does not come from the history"
    elif high < chance:
        verdict = "less than guessing overall"
    elif above:
        verdict = "no better than guessing overall, but better in some categories"
    else:
        follows = (
            "its knowledge comes from the history"
            if source == "the history"
            else f"{source} cannot explain its results"
        )
        verdict = f"no better than guessing, {_each_of(cells)}" + (f", so {follows}" if cells else "")
    sentence = f"{does} {percent(summary.accuracy)} ({INTERVAL} {span(summary.ci95)}): {verdict}."
    return sentence + (f" More than guessing: {'; '.join(above)}." if above else "")


def _on_rules(best: Control, task: str) -> str:
    """Describes the strongest of the rules that read neither the history nor the labels."""
    sentence = (
        f"Of {best.tried} rules that read only the question and its options, the strongest"
        f" ({best.rule}) gets {percent(best.accuracy)} ({INTERVAL} {span(best.ci95)})"
    )
    cells = _cells(best.by or {}, task)
    telling = [
        f"{name} ({cell.rule}: {percent(cell.accuracy)} of {cell.n:,})"
        for name, cell in cells.items()
        if cell.telling
    ]
    if best.telling:
        verdict = "more than chance allows for the best of them, so part of the score needs no history"
    elif telling:
        verdict = "within chance for the best of them overall, but above it in some categories"
    else:
        verdict = f"within chance for the best of them, {_each_of(cells)}"
    return f"{sentence}: {verdict}." + (f" More than chance allows: {'; '.join(telling)}." if telling else "")


def _by_kind(before: Statistics, after: Statistics) -> list[tuple[str, float, float]]:
    """Returns (kind of question, accuracy before, accuracy after) of each kind."""
    then, now = before.by.get("kind", {}), after.by.get("kind", {})
    shares = [(kind, then[kind].accuracy, now[kind].accuracy) for kind in now if kind in then]
    return [(kind, low, high) for kind, low, high in shares if low is not None and high is not None]


M = TypeVar("M", bound=Measure)


def _cells(by: Mapping[str, Mapping[str, M]], task: str) -> dict[str, M]:
    """Returns {name: cell} of all categories that are large enough to judge on their own."""
    return {
        f"{title_of(category, task).lower()} = {charts.readable(value)}": cell
        for category, table in by.items()
        for value, cell in table.items()
        if cell.n >= rules.LEAST and not rules.nameless(value)
    }


def _each_of(cells: Collection[str]) -> str:
    if not cells:
        return f"overall; no category has the {rules.LEAST} questions needed to judge it on its own"
    return f"overall and in each of {len(cells)} categories of at least {rules.LEAST} questions"
