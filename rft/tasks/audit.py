"""Audit of dataset shortcuts: how far questions can be answered without the history.

Invariant: a prompt depends only on query, options, date and history, and a rule that does not read the
history scores at chance in every breakdown of the questions. The first part is verified for our prompts. The
second part is a property of the data and is only measured: released PersonaMem-v2 violates it (the gold is
too often the longest option), so every accuracy must be compared with these numbers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reward.mcq import LETTERS
from rft.data import rules
from rft.data.history import History
from rft.data.prompt import CONTEXTS, messages
from rft.data.question import Question
from rft.errors import DataError
from rft.tasks.load import task_named

COUNTS = {
    "questions with options": "with_options",
    "questions without options": "free",
    "of these, the right answer is to abstain": "abstain",
}
SHARES = {
    "gold is the longest, alone": "gold_longest_alone",
    "gold is among the longest": "gold_longest",
    "gold is the shortest, alone": "gold_shortest_alone",
    "gold is among the shortest": "gold_shortest",
}


def shortcuts(questions: Sequence[Question]) -> dict[str, Any]:
    """Scores the rules of `rft.data.rules`, over all N >= 1 questions (with options) and in each value of a
    breakdown with at least `rules.LEAST` questions.

    Returns:
        A dict with these keys:
            n: number of questions.
            chance: score of guessing a letter.
            gold_longest_alone, gold_longest (ties included), gold_shortest_alone, gold_shortest: share of
                questions whose gold has this length among the options, in characters.
            letters: number of questions per gold letter.
            rules: {rule: score}.
            strongest: {rule, score, n, tried, bar, telling}, see `rules.Strongest`.
            by: {breakdown: {value: {**strongest, rules}}}.
    """
    n = len(questions)
    counts = [len(question.options) for question in questions]
    report: dict[str, Any] = {"n": n, "chance": rules.chance(counts)}
    for name, extreme in (("longest", max), ("shortest", min)):
        ties = [_ties(question, extreme) for question in questions]
        report[f"gold_{name}_alone"] = sum(t == 1 for t in ties) / n
        report[f"gold_{name}"] = sum(t > 0 for t in ties) / n
    report["letters"] = {
        letter: sum(q.gold == letter for q in questions) for letter in LETTERS[: max(counts)]
    }
    rule_scores = rules.scores([rules.asked(question) for question in questions])
    groups = [task_named(question.task).groups(question.labels) for question in questions]
    everything = _cell(rule_scores, range(n), counts)
    report["rules"] = everything.pop("rules")
    report["strongest"] = everything
    report["by"] = {
        name: {
            value: _cell(rule_scores, rows, counts)
            for value, rows in rules.cells([of_row.get(name, "") for of_row in groups]).items()
        }
        for name in dict.fromkeys(name for of_row in groups for name in of_row)
    }
    return report


def _cell(
    rule_scores: Mapping[str, Sequence[float]], rows: Sequence[int], options: Sequence[int]
) -> dict[str, Any]:
    means = {rule: sum(values[row] for row in rows) / len(rows) for rule, values in rule_scores.items()}
    return {**rules.strongest(rule_scores, rows, options).record(), "rules": means}


def lines(audit: Mapping[str, Any]) -> dict[str, str]:
    """Formats an audit as {label: figure}, for tables; what it does not have is left out."""
    shown = {text: f"{audit[key]:.1%}" for text, key in SHARES.items() if key in audit}
    if "rules" in audit:
        shown |= {f"score of: {name}": f"{score:.1%}" for name, score in audit["rules"].items()}
        shown.setdefault(f"score of: {rules.PROBE}", "too few rows")
        shown["strongest of these"] = _describe(audit["strongest"])
    for category, cells in audit.get("by", {}).items():
        value, cell = max(
            cells.items(), key=lambda item: item[1]["score"] - item[1]["bar"], default=("", None)
        )
        shown[f"strongest by {category}"] = (
            f"{value}: {_describe(cell)}" if cell else f"no value with {rules.LEAST} questions"
        )
    shown |= {text: f"{audit[key]:,}" for text, key in COUNTS.items() if key in audit}
    if "in_history" in audit:
        shown["free answers found in the history"] = f"{audit['in_history']:.1%}"
    if "evidence" in audit:
        shown["evidence found in the history"] = (
            "no evidence given" if audit["evidence"] is None else f"{audit['evidence']:.1%}"
        )
        shown["questions without evidence"] = f"{audit['never_told']:,}"
    if "personal_items" in audit:
        shown["personal items outside reserved ranges"] = f"{audit['personal_items']:,}"
    return shown


def _describe(cell: Mapping[str, Any]) -> str:
    return f"{cell['rule']} {cell['score']:.1%} of {cell['n']:,}{', telling' if cell['telling'] else ''}"


def telling_rules(audit: Mapping[str, Any]) -> list[str]:
    """Describes the scores that chance does not explain (see `rules.bar`): the rules over the complete split,
    and the strongest rule of each category value."""
    bar = audit["strongest"]["bar"]
    telling = {rule: score for rule, score in audit["rules"].items() if score > bar}
    descriptions = [
        f"{rule} scores {telling[rule]:.1%}" for rule in sorted(telling, key=lambda rule: -telling[rule])
    ]
    for category, cells in audit["by"].items():
        beyond = {value: cell for value, cell in cells.items() if cell["telling"]}
        if beyond:
            cells_text = ", ".join(
                f"{value} ({_describe(cell).removesuffix(', telling')})" for value, cell in beyond.items()
            )
            descriptions.append(f"by {category}: {cells_text}")
    return descriptions


def prove_label_free(question: Question, history: History) -> None:
    """Builds the question's prompt in every context, with its labels and without them.

    Raises:
        DataError: if the two prompts differ, that is, if anything but query, options, date and history
            reaches the model.
    """
    bare = replace(
        question,
        id="",
        row=0,
        persona_id="",
        gold=question.gold and LETTERS[0],
        labels=dict.fromkeys(question.labels),
        kind="",
        accepted=("",) if question.compared else (),
        abstain=False,
    )
    for context in CONTEXTS:
        if messages(question, history, context) != messages(bare, history, context):
            raise DataError(
                f"question {question.id}: its prompt in context {context!r} depends on its labels"
            )


def _ties(question: Question, extreme: Callable[[Iterable[int]], int]) -> int:
    """Number of options that share the extreme length; 0 if the gold is not among them."""
    lengths = [len(option) for option in question.options]
    extreme_length = extreme(lengths)
    return lengths.count(extreme_length) if lengths[LETTERS.index(question.gold)] == extreme_length else 0
