"""What the columns of PersonaMem tell about a split: whether its evidence is in the histories, and whether an
annotation occurs in a prompt."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rft.data.faults import contains, fold
from rft.data.history import History, read_history, text_of
from rft.data.private import plausible_items
from rft.data.prompt import SYSTEM, final_message
from rft.data.question import Question
from rft.tasks.audit import shortcuts
from rft.tasks.base import Findings, Split, UnusableRow
from rft.tasks.files import history_path
from rft.tasks.personamem.dataset import COLUMNS, SNIPPET, csv_path, read_rows
from rft.tasks.personamem.question import read_question


def audit(split: Split) -> Findings:
    """What the columns tell about a split."""
    questions = {question.row: question for question in split.questions}
    texts = {id: texts_of(history) for id, history in split.histories.items()}
    warnings: list[str] = []
    rows: dict[str, list[int]] = {}
    tokens: dict[str, str] = {}
    evident: list[bool] = []
    for row, record in read_rows(csv_path(split.root, split.name)):
        if row == 0 and (missing := [column for column in COLUMNS if column not in record]):
            warnings.append(f"the official columns {', '.join(missing)} are missing")
        if (question := questions.get(row)) is None:
            continue
        if record.get(SNIPPET):
            evident.append(evidence_found(record, texts[question.history_id]))
        for column in repeated_labels(question, record):
            rows.setdefault(f"the text of {column} occurs in the question itself", []).append(row)
        tokens[question.history_id] = record.get(f"total_tokens_in_chat_history_{split.window}", "").strip()
    return Findings(
        tuple(warnings),
        rows,
        told(evident, len(split.questions)),
        tuple(int(float(text)) for text in tokens.values() if re.fullmatch(r"\d+(\.\d*)?", text)),
    )


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
    return {fold(message.content) for message in history.messages}


def evidence_found(record: Mapping[str, str], history_texts: Collection[str]) -> bool:
    """Returns whether every message of the row's snippet is in `history_texts`."""
    evidence = _evidence(record.get(SNIPPET, ""))
    return bool(evidence) and all(fold(text) in history_texts for text in evidence)


def repeated_labels(question: Question, record: Mapping[str, str]) -> list[str]:
    """Returns the label columns whose text occurs verbatim in the part that a prompt adds to the history.

    Options may repeat the preference they are about, and a query may be a message of the history (some are).
    Otherwise neither descriptions of the person nor evidence may occur there.
    """
    added = fold(SYSTEM + "\n" + final_message(question))
    asked = fold(question.query)
    columns = [c for c in ("preference", "prev_pref") if contains(asked, record.get(c, ""))]
    columns += [c for c in ("short_persona", "expanded_persona") if contains(added, record.get(c, ""))]
    evidence = [text for text in _evidence(record.get(SNIPPET, "")) if fold(text) != asked]
    if any(contains(added, text) for text in evidence):
        columns.append(SNIPPET)
    return columns


def _evidence(snippet: str) -> list[str]:
    """The messages of a snippet (a JSON list of role and content); the snippet itself if it has another
    format."""
    try:
        return [text_of(message["content"]) or "" for message in json.loads(snippet)]
    except (ValueError, TypeError, KeyError):
        return [snippet]
