"""Reads a four-option question of PersonaMem from one row of its CSV.

Invariant: exactly one of the four options is gold. The order depends only on the index of the row in its
file, so the letters are the same in every run.
"""

import ast
import json
import random
import re
from collections.abc import Mapping
from typing import Any

from reward.mcq import LETTERS
from rft.data.history import text_of
from rft.data.question import Question
from rft.errors import DataError
from rft.tasks.base import ORDER_SEED, UnusableRow
from rft.tasks.personamem.labels import kind_of

SPELLINGS = {"sensitive_information": "sensitive_info", "other": "others"}
TRUE, FALSE = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no", "", "none", "nan", "null"}


def read_question(
    record: Mapping[str, str], row: int, split: str, window: str, history_id: str, where: str
) -> Question:
    """Reads the question of one CSV row.

    Args:
        record: {column: cell}.
        row: index of the row in its file, from 0.
        split: name of the split.
        window: "32k" or "128k"; selects the distance label.
        history_id: id of the question's history.
        where: file and row, for error messages.

    Raises:
        UnusableRow: with the reason, if the row has a known irregularity of the data.
        DataError: if the correct answer is also among the incorrect ones, because then no letter is correct.
    """
    query = _query(record["user_query"])
    gold = record["correct_answer"].strip()
    if not gold:
        raise UnusableRow("correct_answer is empty")
    distractors = _distractors(record["incorrect_answers"])
    if gold in distractors:
        raise DataError(
            f"{where}: the correct answer is also among incorrect_answers; correct or remove this row"
        )
    if len(set(distractors)) != len(distractors):
        raise UnusableRow("two incorrect_answers are the same")

    options = [gold, *distractors]
    random.Random(ORDER_SEED + row).shuffle(options)
    labels = _labels(record, window)
    return Question(
        id=f"{split}-{row}",
        row=row,
        persona_id=persona_id(record),
        history_id=history_id,
        query=query,
        options=tuple(options),
        gold=LETTERS[options.index(gold)],
        labels=labels,
        kind=kind_of(labels),
        task="personamem",
    )


def persona_id(record: Mapping[str, str]) -> str:
    """Returns the persona of a row; "78.0", as written by spreadsheet tools, becomes "78"."""
    return re.sub(r"^(\d+)\.0$", r"\1", record["persona_id"].strip())


def _query(literal: str) -> str:
    """The text of `user_query`, a Python dict literal with role and content. It is not JSON: an apostrophe in
    the text changes its quotes."""
    try:
        message: Any = ast.literal_eval(literal.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UnusableRow(
            "user_query is empty" if not literal.strip() else "user_query is not a Python dict literal"
        ) from None
    text = text_of(message.get("content")) if isinstance(message, dict) else None
    if text is None:
        raise UnusableRow("user_query is not a dict with a text under 'content'")
    if not text.strip():
        raise UnusableRow("user_query is empty")
    return text.strip()


def _distractors(text: str) -> list[str]:
    try:
        answers: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableRow(
            "incorrect_answers is missing" if not text.strip() else "incorrect_answers is not JSON"
        ) from None
    if not isinstance(answers, list):
        raise UnusableRow("incorrect_answers is not a list")
    usable = [answer.strip() for answer in answers if isinstance(answer, str) and answer.strip()]
    if len(answers) != 3 or len(usable) != 3:
        nulls = sum(answer is None for answer in answers)
        problem = f"{len(answers)} incorrect_answers"
        if nulls:
            problem += f", {nulls} of them null"
        elif len(usable) < len(answers):
            problem += f", {len(answers) - len(usable)} of them empty or not a text"
        raise UnusableRow(f"{problem}; expected 3 texts")
    return usable


def _labels(record: Mapping[str, str], window: str) -> dict[str, Any]:
    """The annotations of a row; `rft.tasks.personamem.labels` explains them."""
    return {
        "pref_type": _label(record["pref_type"]),
        "who": _label(record["who"]),
        "updated": _flag(record["updated"], "updated"),
        "scenario": _label(record["conversation_scenario"]),
        "distance": _count(record[f"distance_from_related_snippet_to_query_{window}"], "distance"),
        "preference": record["preference"].strip(),
        "prev_pref": record["prev_pref"].strip(),
        # Some rows contain a text here that names the sensitive information.
        "sensitive": record["sensitive_info"].strip().lower() not in FALSE,
        "topic": record["topic_query"].strip().removeprefix(":").strip(),
    }


def _label(text: str) -> str:
    label = text.strip().removeprefix(":").strip().lower()
    return SPELLINGS.get(label, label)


def _flag(text: str, column: str) -> bool:
    word = text.strip().lower()
    if word not in TRUE | FALSE:
        raise UnusableRow(f"{column} is neither True nor False")
    return word in TRUE


def _count(text: str, column: str) -> int | None:
    """An integer, which may be written as a float; None if the cell is empty."""
    if text.strip().lower() in ("", "nan", "none"):
        return None
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise UnusableRow(f"{column} is not a number") from None
