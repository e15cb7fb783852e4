"""One four-option question about a person, read from one row of a dataset CSV.

Invariant: a `Question` has a query, four different options in the order they are shown in, and exactly one of
them is gold. The order depends on nothing but the row's index in its file, so that everybody shows the same
letters. Labels are for reports only.
"""

import ast
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rft.data.history import text_of
from rft.errors import DataError

LETTERS = ("a", "b", "c", "d")
ORDER_SEED = 42
SPELLINGS = {"sensitive_information": "sensitive_info", "other": "others"}
TRUE, FALSE = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no", "", "none", "nan", "null"}


class UnusableRow(Exception):
    """The row cannot become a question; the message is the reason it is skipped."""


@dataclass(frozen=True)
class Labels:
    """What the dataset knows about a question. Never part of a prompt.

    distance: the authors' tokens between the evidence and the end of the history, None where not given.
    """

    pref_type: str
    who: str
    updated: bool
    scenario: str
    distance: int | None
    preference: str
    prev_pref: str
    sensitive: bool
    topic: str = ""

    @property
    def kind(self) -> str:
        """What a right answer has to tell; see `kind`."""
        return kind(self.pref_type, self.who, self.updated, self.sensitive)


def kind(pref_type: str, who: str, updated: bool, sensitive: bool = False, **others: Any) -> str:
    """What a right answer to a question with these labels has to tell: "withdrawn", "sensitive", "others" (whose preference it
    is), "changed", or "plain"."""
    if pref_type == "ask_to_forget":
        return "withdrawn"
    if sensitive or pref_type == "sensitive_info":
        return "sensitive"
    if who == "others":
        return "others"
    return "changed" if updated else "plain"


@dataclass(frozen=True)
class Question:
    """A query with four lettered options; `gold` is a letter; `row` the index (from 0) in the CSV, skipped
    rows included.

    open_ended: asked without its options, to be answered freely.
    """

    id: str
    row: int
    persona_id: str
    history_id: str
    query: str
    options: tuple[str, str, str, str]
    gold: str
    labels: Labels
    open_ended: bool = False

    def check(self) -> None:
        """Score model answers: gold 1, each other letter 0, an empty and a truncated completion 0.

        Raises DataError where the reward says otherwise, or where two letters stand for the same text.
        """
        from reward import self_check

        if len(set(self.options)) != len(LETTERS):
            raise DataError(f"question {self.id}: expected {len(LETTERS)} different options")
        try:
            self_check(self.gold)
        except ValueError as error:
            raise DataError(f"question {self.id}: {error}") from None


def read_question(
    record: Mapping[str, str], row: int, split: str, window: str, history_id: str, where: str
) -> Question:
    """The question of one CSV row.

    Raises UnusableRow with the reason where the row is one of the data's known irregularities, and DataError
    (naming `where`) where the correct answer is also among the incorrect ones, since then no letter is right.
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
    return Question(
        id=f"{split}-{row}",
        row=row,
        persona_id=persona_id(record),
        history_id=history_id,
        query=query,
        options=(options[0], options[1], options[2], options[3]),
        gold=LETTERS[options.index(gold)],
        labels=_labels(record, window),
    )


def persona_id(record: Mapping[str, str]) -> str:
    """The persona of a row; "78.0", as spreadsheet tools write it, is "78"."""
    return re.sub(r"^(\d+)\.0$", r"\1", record["persona_id"].strip())


def _query(literal: str) -> str:
    """`user_query` is the literal of a Python dict with role and content, not JSON: an apostrophe inside
    changes its quotes.
    """
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
        found = f"{len(answers)} incorrect_answers"
        if nulls:
            found += f", {nulls} of them null"
        elif len(usable) < len(answers):
            found += f", {len(answers) - len(usable)} of them empty or not a text"
        raise UnusableRow(f"{found}; expected 3 texts")
    return usable


def _labels(record: Mapping[str, str], window: str) -> Labels:
    return Labels(
        pref_type=_label(record["pref_type"]),
        who=_label(record["who"]),
        updated=_flag(record["updated"], "updated"),
        scenario=_label(record["conversation_scenario"]),
        distance=_count(record[f"distance_from_related_snippet_to_query_{window}"], "distance"),
        preference=record["preference"].strip(),
        prev_pref=record["prev_pref"].strip(),
        # Some rows have a text here, which names what is sensitive.
        sensitive=record["sensitive_info"].strip().lower() not in FALSE,
        topic=record["topic_query"].strip().removeprefix(":").strip(),
    )


def _label(text: str) -> str:
    label = text.strip().removeprefix(":").strip().lower()
    return SPELLINGS.get(label, label)


def _flag(text: str, column: str) -> bool:
    word = text.strip().lower()
    if word not in TRUE | FALSE:
        raise UnusableRow(f"{column} is neither True nor False")
    return word in TRUE


def _count(text: str, column: str) -> int | None:
    """An integer, also when written as a float; None where the cell is empty."""
    if text.strip().lower() in ("", "nan", "none"):
        return None
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise UnusableRow(f"{column} is not a number") from None
