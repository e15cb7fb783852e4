"""What an evaluation or a quickstart shows, in plain sentences.

Invariant: a sentence says no more than its numbers do, over all and in each category that is large enough to be judged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rft.data import rules
from rft.data.categories import nameless
from rft.report import charts
from rft.report.pages import INTERVAL, NBSP, percent, span

CATEGORIES = {
    "kind": "What has to be told",
    "pref_type": "Kind of preference",
    "who": "Whose preference",
    "updated": "Changed later",
    "scenario": "Where it was said",
    "distance": "Tokens since it was said",
    "pref_type_who": "Kind and whose",
    "history_length": "Length of the history, in tokens of 4 characters",
}


def consistently(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with the share of right and consistent answers as its accuracy, in every category too; as it is if its
    questions had no options."""
    if "right_and_consistent" not in summary:
        return dict(summary)
    by = {name: {value: consistently(cell) for value, cell in table.items()} for name, table in summary.get("by", {}).items()}
    found = {**summary, "accuracy": summary["right_and_consistent"], "ci95": summary["right_and_consistent_ci95"]}
    return found | ({"by": by} if by else {})


def learned(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a quickstart shows, in a few plain sentences; the last lines on the terminal and in the report.

    summaries: as for `write_quickstart_report`.
    """
    before, after = consistently(summaries["sft"]), consistently(summaries["grpo"])
    gain = after["accuracy"] - before["accuracy"]
    said = [
        f"GRPO took the model from {percent(before['accuracy'])} to {percent(after['accuracy'])} answers that are right and "
        f"consistent ({100 * gain:+.1f} points) on {after['n']} questions about {after['personas']} people it never met "
        f"({INTERVAL} {span(after['ci95'])}, before {span(before['ci95'])}). Guessing gives 25{NBSP}%.",
        *_on_words(before, after),
    ]
    if "blind" in summaries:
        said.append(_on_control(summaries["blind"], "Without the history the same model gets", "the history"))
    if "longest_option" in summaries:
        said.append(_on_control(summaries["longest_option"], "Always taking the longest option gets", "reading the options"))
    if "strongest" in after["controls"]:
        said.append(_on_rules(after["controls"]["strongest"]))
    said += _on_kinds(_by_kind(before, after))
    if "memory" in summaries:
        said += _on_memory(summaries)
    return said


def _on_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What the words say, beside the box."""
    if "thought_right" not in after:
        return []
    said = f"The thought names the gold option in {percent(after['thought_right'])} of the answers, before GRPO in "
    said += f"{percent(before['thought_right'])}"
    if after["consistent"] is not None:
        said += f"; words and box agree in {percent(after['consistent'])} (before: {percent(before['consistent'])})"
    return [said + "."]


def _on_kinds(moved: Sequence[tuple[str, float, float]]) -> list[str]:
    """Which kind gained most, which lost most and which is the lowest after GRPO: a kind is named once, and not for a gain
    or loss of nothing, nor as the lowest of equals. moved: (kind, accuracy before, accuracy after)."""
    if len(moved) < 2:
        return []
    gained, lost = (pick(moved, key=lambda item: item[2] - item[1]) for pick in (max, min))
    lowest = min(moved, key=lambda item: item[2])
    is_lowest = lowest[2] < max(high for _, _, high in moved)
    told = [("gain", gained)] * (gained[2] > gained[1]) + [("loss", lost)] * (lost[2] < lost[1])
    said = [
        f"The largest {change} is on {_moved(item)}{', still the lowest' if is_lowest and item is lowest else ''}."
        for change, item in told
    ]
    if is_lowest and all(item is not lowest for _, item in told):
        said.append(f"The lowest accuracy after GRPO is on {_moved(lowest)}.")
    return said


def _moved(item: tuple[str, float, float]) -> str:
    kind, low, high = item
    return f"{charts.readable(kind)}: {percent(low)} before, {percent(high)} after"


def _on_memory(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is written, what is answered from it, by the writer and by a fixed reader, and what is read for an answer."""
    summaries = {key: consistently(summary) for key, summary in summaries.items()}
    memory, before = summaries["memory"], summaries.get("memory_sft")
    found = []
    if written := memory.get("lines"):
        said = (f"Of the {written['targets']:,} lines that {written['memories']} memories should hold, "
                f"{percent(written['right_rate'])} are right ({INTERVAL} {span(written['ci95'])})")
        found.append(f"{said}{_before(before and before.get('lines'), 'right_rate')}.")
    said = f"From its memory alone it gets {percent(memory['accuracy'])} ({INTERVAL} {span(memory['ci95'])})"
    found.append(f"{said}{_before(before, 'accuracy')}.")
    if before and memory.get("reader"):
        read = consistently(memory["reader"])
        found.append(f"A fixed reader, the cold start, gets {percent(read['accuracy'])} ({INTERVAL} {span(read['ci95'])}) from "
                     f"the same memories, and {percent(before['accuracy'])} from its own.")
    if "grpo" in summaries:
        read, all_of_it = memory["input_tokens_per_question"], summaries["grpo"]["input_tokens_per_question"]
        found.append(f"It reads {read:,.0f} tokens for a question; who reads the whole history reads {all_of_it:,.0f} "
                     f"({all_of_it / read:.1f} times as many) and gets {percent(summaries['grpo']['accuracy'])} of all.")
    if "forget" in summaries and summaries["forget"]["forgotten"]["rate"] is not None:
        gone = summaries["forget"]["forgotten"]
        found.append(
            f"Of {gone['written']} things that users asked to forget and that stood in a memory, {gone['gone']} are gone "
            f"({percent(gone['rate'])})."
        )
    return found


def _before(summary: Mapping[str, Any] | None, key: str) -> str:
    """The same number of the cold start, behind that of the run; "" without one."""
    return f", {percent(summary[key])} before GRPO" if summary else ""


def on_controls(summary: Mapping[str, Any]) -> list[str]:
    """What the controls of an evaluation say, over all and in each category that is large enough, and no more than that."""
    said = []
    if (blind := summary["controls"].get("blind")) is not None and blind["accuracy"] is not None:
        said.append(_on_control(blind, "Without the history the same model gets", "the history"))
    if (best := summary["controls"].get("strongest")) is not None:
        said.append(_on_rules(best))
    return said


def _on_control(summary: Mapping[str, Any], does: str, source: str) -> str:
    """What a control says: at chance, where it is so over all and in each category that is large enough; else these are named.

    A category is above chance as `rules.bar` has it, for as many as there are: the best of many is so by luck.
    """
    low, high = summary["ci95"]
    cells = _cells(summary["by"])
    above = [
        f"{name} ({percent(cell['accuracy'])} of {cell['n']:,})"
        for name, cell in cells.items()
        if cell["accuracy"] is not None and cell["accuracy"] > rules.bar(cell["n"], len(cells))
    ]
    if low > charts.CHANCE:
        verdict = "more than guessing, so a part of the score does not come from the history"
    elif high < charts.CHANCE:
        verdict = "less than guessing over all"
    elif above:
        verdict = "no better than guessing over all, but not in each category"
    else:
        follows = "what it knows it reads in the history" if source == "the history" else f"{source} cannot explain what it knows"
        verdict = f"no better than guessing, {_each_of(cells)}" + (f", so {follows}" if cells else "")
    found = f"{does} {percent(summary['accuracy'])} ({INTERVAL} {span(summary['ci95'])}): {verdict}."
    return found + (f" More than guessing: {'; '.join(above)}." if above else "")


def _on_rules(best: Mapping[str, Any]) -> str:
    """The strongest of the rules that read neither history nor labels."""
    found = (
        f"Of {best['tried']} rules that read nothing but the question and its options, the strongest ({best['rule']}) gets "
        f"{percent(best['accuracy'])} ({INTERVAL} {span(best['ci95'])})"
    )
    cells = _cells(best["by"])
    telling = [
        f"{name} ({cell['rule']}: {percent(cell['accuracy'])} of {cell['n']:,})"
        for name, cell in cells.items()
        if cell["telling"]
    ]
    if best["telling"]:
        verdict = "more than chance allows the best of so many, so a part of the score can be had without reading"
    elif telling:
        verdict = "what chance allows the best of so many over all, but not in each category"
    else:
        verdict = f"what chance allows the best of so many, {_each_of(cells)}"
    return f"{found}: {verdict}." + (f" More than chance allows: {'; '.join(telling)}." if telling else "")


def _by_kind(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(kind of question, accuracy before, accuracy after)"""
    then, now = before["by"]["kind"], after["by"]["kind"]
    return [(kind, then[kind]["accuracy"], now[kind]["accuracy"]) for kind in now if kind in then]


def _cells(by: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The cells of all categories that are large enough to be judged by themselves, by their names."""
    return {
        f"{CATEGORIES[category].lower()} = {charts.readable(value)}": cell
        for category, table in by.items()
        for value, cell in table.items()
        if cell["n"] >= rules.LEAST and not nameless(value)
    }


def _each_of(cells: Mapping[str, Any]) -> str:
    if not cells:
        return f"over all; no category has the {rules.LEAST} questions that it takes to say so of it"
    return f"over all and in each of {len(cells)} categories of at least {rules.LEAST} questions"
