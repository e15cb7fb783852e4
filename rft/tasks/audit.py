"""Audit of dataset shortcuts: how far questions can be answered without the history.

Invariant: a prompt depends only on query, options and history, and a rule that does not read the history
scores at chance in every category of questions. The first part is verified for our prompts. The second part
is a property of the data and is only measured: released PersonaMem-v2 violates it (the gold is too often the
longest option), so every accuracy must be compared with these numbers.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rft.data import rules
from rft.data.categories import OF_LABELS
from rft.tasks.personamem.dataset import csv_path, history_path, read_rows
from rft.data.history import History, read_history, text_of
from rft.data.private import plausible_items
from rft.data.prompt import CONTEXTS, SYSTEM, final_message, messages
from rft.data.question import LETTERS, Labels, Question, UnusableRow, read_question
from rft.errors import DataError

SHARES = {
    "gold is the longest, alone": "gold_longest_alone",
    "gold is among the longest": "gold_longest",
    "gold is the shortest, alone": "gold_shortest_alone",
    "gold is among the shortest": "gold_shortest",
}
NO_LABELS = Labels(
    pref_type="",
    who="",
    updated=False,
    scenario="",
    distance=None,
    preference="",
    prev_pref="",
    sensitive=False,
)
SNIPPET = "related_conversation_snippet"
TELLING = 12  # minimum length in characters; a shorter label ("Tea") may occur in a text by chance


def shortcuts(questions: Sequence[Question]) -> dict[str, Any]:
    """Scores the rules of `rft.data.rules`, over all questions and in each category with at least
    `rules.LEAST` questions.

    Returns:
        A dict with these keys:
            n: number of questions.
            gold_longest_alone, gold_longest (ties included), gold_shortest_alone, gold_shortest: share of
                questions whose gold has this length among the options, in characters.
            letters: number of questions per gold letter.
            rules: {rule: score}.
            strongest: {rule, score, n, tried, bar, telling}, see `rules.Strongest`.
            by: {category: {value: {**strongest, rules}}}.
    """
    n = len(questions)
    report: dict[str, Any] = {"n": n}
    for name, extreme in (("longest", max), ("shortest", min)):
        ties = [_ties(question, extreme) for question in questions]
        report[f"gold_{name}_alone"] = sum(t == 1 for t in ties) / n
        report[f"gold_{name}"] = sum(t > 0 for t in ties) / n
    report["letters"] = {letter: sum(q.gold == letter for q in questions) for letter in LETTERS}
    rule_scores = rules.scores([rules.asked(question) for question in questions])
    labels = [question.labels for question in questions]
    everything = _cell(rule_scores, range(n))
    report["rules"] = everything.pop("rules")
    report["strongest"] = everything
    report["by"] = {
        name: {
            value: _cell(rule_scores, rows)
            for value, rows in rules.cells([value_of(row_labels) for row_labels in labels]).items()
        }
        for name, value_of in OF_LABELS.items()
    }
    return report


def _cell(rule_scores: Mapping[str, Sequence[float]], rows: Sequence[int]) -> dict[str, Any]:
    means = {rule: sum(values[row] for row in rows) / len(rows) for rule, values in rule_scores.items()}
    return {**rules.strongest(rule_scores, rows).record(), "rules": means}


def lines(audit: Mapping[str, Any]) -> dict[str, str]:
    """Formats an audit as {label: figure}, for tables."""
    shown = {text: f"{audit[key]:.1%}" for text, key in SHARES.items()}
    shown |= {f"score of: {name}": f"{score:.1%}" for name, score in audit["rules"].items()}
    shown.setdefault(f"score of: {rules.PROBE}", "too few rows")
    shown["strongest of these"] = _describe(audit["strongest"])
    for category, cells in audit["by"].items():
        value, cell = max(
            cells.items(), key=lambda item: item[1]["score"] - item[1]["bar"], default=("", None)
        )
        shown[f"strongest by {category}"] = (
            f"{value}: {_describe(cell)}" if cell else f"no value with {rules.LEAST} questions"
        )
    if "evidence" in audit:
        shown["evidence found in the history"] = (
            "no evidence given" if audit["evidence"] is None else f"{audit['evidence']:.1%}"
        )
        shown["questions without evidence"] = f"{audit['never_told']:,}"
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


def audit_split(root: Path, split: str, window: str) -> dict[str, Any]:
    """Audits one split: its `shortcuts`, its evidence and its personal items.

    Only one history is in memory at a time, so rows of the same persona should be adjacent in the CSV.

    Returns:
        The dict of `shortcuts`, the dict of `told`, and personal_items: number of distinct items found.
    """
    column = f"chat_history_{window}_link"
    questions: list[Question] = []
    evident: list[bool] = []
    items = set[str]()
    link, history, history_texts = "", None, set[str]()
    for row, record in read_rows(csv_path(root, split)):
        where = f"{split}: row {row}"
        if history is None or record[column] != link:
            link = record[column]
            history = read_history(history_path(root, link, where, column))
            history_texts = texts_of(history)
            items.update(item for message in history.turns for item in plausible_items(message.content))
        try:
            question = read_question(record, row, split, window, history.id, where)
        except UnusableRow:
            continue
        questions.append(question)
        if record.get(SNIPPET):
            evident.append(evidence_found(record, history_texts))
        items.update(plausible_items("\n".join((question.query, *question.options))))
    return {**shortcuts(questions), **told(evident, len(questions)), "personal_items": len(items)}


def told(evident: Sequence[bool], n: int) -> dict[str, Any]:
    """Summarizes the evidence of n questions.

    Args:
        evident: for each question with an evidence snippet, whether its history contains the evidence.
        n: number of questions.

    Returns:
        evidence: share of `evident` that is true (None if empty); never_told: number of questions without a
            snippet.
    """
    return {"evidence": sum(evident) / len(evident) if evident else None, "never_told": n - len(evident)}


def texts_of(history: History) -> set[str]:
    """Returns the messages of a history, normalized in case and white space for `evidence_found`."""
    return {_fold(message.content) for message in history.messages}


def evidence_found(record: Mapping[str, str], history_texts: Collection[str]) -> bool:
    """Returns whether every message of the row's snippet is in `history_texts`."""
    evidence = _evidence(record.get(SNIPPET, ""))
    return bool(evidence) and all(_fold(text) in history_texts for text in evidence)


def prove_label_free(question: Question, history: History) -> None:
    """Builds the question's prompt in every context, with its labels and without them.

    Raises:
        DataError: if the two prompts differ, that is, if anything but query, options and history reaches the
            model.
    """
    bare = replace(question, id="", row=0, persona_id="", gold=LETTERS[0], labels=NO_LABELS)
    for context in CONTEXTS:
        if messages(question, history, context) != messages(bare, history, context):
            raise DataError(
                f"question {question.id}: its prompt in context {context!r} depends on its labels"
            )


def repeated_labels(question: Question, record: Mapping[str, str]) -> list[str]:
    """Returns the label columns whose text occurs verbatim in the part that a prompt adds to the history.

    Options may repeat the preference they are about, and a query may be a message of the history (some are).
    Otherwise neither descriptions of the person nor evidence may occur there.
    """
    added = _fold(SYSTEM + "\n" + final_message(question))
    asked = _fold(question.query)
    columns = [c for c in ("preference", "prev_pref") if _stands(record.get(c, ""), asked)]
    columns += [c for c in ("short_persona", "expanded_persona") if _stands(record.get(c, ""), added)]
    evidence = [text for text in _evidence(record.get(SNIPPET, "")) if _fold(text) != asked]
    if any(_stands(text, added) for text in evidence):
        columns.append(SNIPPET)
    return columns


def _evidence(snippet: str) -> list[str]:
    """The messages of a snippet (a JSON list of role and content); the snippet itself if it has another
    format."""
    try:
        return [text_of(message["content"]) or "" for message in json.loads(snippet)]
    except (ValueError, TypeError, KeyError):
        return [snippet]


def _ties(question: Question, extreme: Callable[[Iterable[int]], int]) -> int:
    """Number of options that share the extreme length; 0 if the gold is not among them."""
    lengths = [len(option) for option in question.options]
    extreme_length = extreme(lengths)
    return lengths.count(extreme_length) if lengths[LETTERS.index(question.gold)] == extreme_length else 0


def _stands(label: str, text: str) -> bool:
    label = _fold(label)
    return len(label) >= TELLING and label in text


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())
