"""A question about a person: with lettered options, or to be answered in free text.

Invariant: a `Question` has either no options, or 2 to 26 different ones in display order of which exactly one
is gold. Labels are for reports only and never part of a prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reward.mcq import LETTERS
from rft.errors import DataError

FEWEST, MOST = 2, len(LETTERS)
"""The fewest and the most options of a question that has options."""


@dataclass(frozen=True)
class Question:
    """A query about one history.

    Attributes:
        id: unique in its split.
        row: index (from 0) in its file, counting skipped rows.
        persona_id: the person.
        history_id: the history that the question is about.
        query: what the user asks.
        options: in display order; () if there are none.
        gold: letter of the correct option; None without options.
        labels: annotations, for reports: {name: text, number or bool}.
        open_ended: whether the question is asked without options and answered in free text.
        accepted: texts that are right answers to a question without options.
        abstain: whether the right answer is that it cannot be known.
        judge_only: whether `accepted` tells a judge what is right, and answers are not compared with it.
        date: when the question is asked, in ISO 8601; "" if not given. It is shown to the model.
        kind: what a correct answer must recognize, for metrics and for balanced draws; "" if there is only
            one.
        task: name of the task (`rft.tasks.load.task_named`).
    """

    id: str
    row: int
    persona_id: str
    history_id: str
    query: str
    options: tuple[str, ...]
    gold: str | None
    labels: Mapping[str, Any] = field(default_factory=dict, hash=False)
    open_ended: bool = False
    accepted: tuple[str, ...] = ()
    abstain: bool = False
    judge_only: bool = False
    date: str = ""
    kind: str = ""
    task: str = "jsonl"

    @property
    def compared(self) -> bool:
        """Whether a free answer is scored by comparing it with accepted texts, so that no judge is needed."""
        return bool(self.open_ended and (self.accepted or self.abstain) and not self.judge_only)

    @property
    def gold_text(self) -> str:
        """The text of the correct option; without options, the first accepted answer ("" if there is
        none)."""
        if self.gold is not None:
            return self.options[LETTERS.index(self.gold)]
        return self.accepted[0] if self.accepted else ""

    def check(self) -> None:
        """Verifies the rewards of sample answers: 1 for a right answer, 0 for each other letter, for an empty
        and for a truncated completion.

        Raises:
            DataError: if a reward differs, or if two options have the same text.
        """
        from reward import self_check

        if len(set(self.options)) != len(self.options):
            raise DataError(f"question {self.id}: expected {len(self.options)} different options")
        if self.gold is None:
            return
        try:
            self_check(self.gold, options=self.options)
        except ValueError as error:
            raise DataError(f"question {self.id}: {error}") from None
