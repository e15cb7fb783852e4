"""`results.jsonl`: one row per answer of an evaluation.

Invariant: a row contains all that its score depends on, and is never scored against anything else.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import JsonValue, model_validator

from reward.mcq import LETTERS
from rft.records.base import Versioned

K = TypeVar("K")
V = TypeVar("V")


class ResultRow(Versioned):
    """A question as it was asked, its answer and its score.

    Attributes:
        id: id of the ask: the question, its option order and its sample.
        question: id of the question, the same for all option orders and samples.
        order: rotation of the options, 0 for the displayed order.
        sample: number of the completion, from 0.
        open_ended: whether the question was asked without its options.
        history_id, persona_id: what the question is about.
        history_characters: length of the history; None in files from before it was written.
        labels: annotations of the question.
        query, options, gold: the question, its options as shown, and the letter of the correct one (None
            without options).
        accepted, abstain, judge_only, date: as in `rft.data.question.Question` (only if there is something).
        task: name of the task whose labels these are (only if it is not personamem).
        answered: letter in the box; "text" for an open-ended answer; None if there is no readable answer.
        score: the gated reward; None if an open-ended answer has no verdict yet. A free answer that no judge
            scores is right if it equals an accepted text (`reward.exact_match`).
        votes: verdicts of the judge (only open-ended).
        completion: text of the model.
        input_tokens, output_tokens, cached_tokens: None if the server does not report them.
        finished: False if the completion was cut off at the length limit.
        cost: dollars.
        failures: calls that failed before this answer, by kind (only if there are some).
        read: a summary of what the context showed the model (only if not obvious).
        writing_tokens: tokens read to write the memory of the history (only with memories).
        ending: why there is no answer (only if there is none).
        adapted: changes made to the request because the server rejected its settings (only if there are
            some).
        seconds: time that the answer took.
    """

    id: str
    question: str
    order: int = 0
    sample: int = 0
    open_ended: bool = False
    history_id: str
    history_characters: int | None = None
    persona_id: str
    labels: dict[str, JsonValue]
    query: str
    options: list[str]
    gold: str | None
    accepted: list[str] = []
    abstain: bool = False
    judge_only: bool = False
    date: str = ""
    task: str = "personamem"
    answered: str | None
    score: float | None
    votes: list[bool | None] = []
    completion: str
    input_tokens: int | None
    output_tokens: int | None
    finished: bool
    cached_tokens: int | None = None
    cost: float = 0.0
    failures: dict[str, int] = {}
    read: str = ""
    writing_tokens: int = 0
    ending: str = ""
    adapted: list[str] = []
    seconds: float

    @property
    def gold_text(self) -> str:
        """As in `rft.data.question.Question`."""
        if self.gold is not None:
            return self.options[LETTERS.index(self.gold)]
        return self.accepted[0] if self.accepted else ""

    @property
    def compared(self) -> bool:
        """As in `rft.data.question.Question`."""
        return bool(self.open_ended and (self.accepted or self.abstain) and not self.judge_only)

    @model_validator(mode="before")
    @classmethod
    def _of_one_ask(cls, row: Any) -> Any:
        """Rows from before there were option orders and samples have no `question`: it is their id."""
        if isinstance(row, Mapping) and "question" not in row and "id" in row:
            return {**row, "question": row["id"]}
        return row


def grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """Returns {key: its values} of (key, value) pairs, both in order of appearance."""
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def mean_scores(rows: Iterable[ResultRow]) -> dict[str, float]:
    """Returns {question id: mean score over its option orders and samples}, without the questions that have
    no score."""
    scores = grouped((row.question, row.score) for row in rows if row.score is not None)
    return {question: sum(values) / len(values) for question, values in scores.items()}
