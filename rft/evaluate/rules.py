"""Answers without a model: always the longest, the shortest or the first option.

Invariant: a rule sees the options as they are displayed and nothing else, so whatever it scores above chance
the data gives away. Of equally long options it takes the one displayed first; the display order is shuffled
for each row, so this favours no option.
"""

from collections.abc import Sequence
from typing import Any

from rft.data.history import History
from rft.data.question import LETTERS, Question
from rft.errors import DataError
from rft.evaluate.answer import Answer

RULES = ("longest", "shortest", "first")


class RuleAnswers:
    """The answerer of `--rule`. Lengths are in characters. Raises DataError for an unknown rule."""

    context = "none"

    def __init__(self, rule: str):
        if rule not in RULES:
            raise DataError(f"unknown rule {rule!r}; expected one of {', '.join(RULES)}")
        self.rule = rule
        self.name = f"rule: {rule} option"
        self.settings: dict[str, Any] = {"rule": rule}

    def answer(self, questions: Sequence[Question], history: History | None = None) -> list[Answer]:
        return [Answer(self._completion(question)) for question in questions]

    def _completion(self, question: Question) -> str:
        letter = choice(self.rule, question.options)
        return f"<think>Option ({letter}) is the {self.rule}.</think>\\boxed{{{letter}}}"


def choice(rule: str, options: Sequence[str]) -> str:
    """The letter a rule takes."""
    lengths = [len(option) for option in options]
    wanted = {"longest": max(lengths), "shortest": min(lengths), "first": lengths[0]}[rule]
    return LETTERS[lengths.index(wanted)]
