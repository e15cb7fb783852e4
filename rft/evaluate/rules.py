"""Answers without a model: always the longest, shortest or first option, or the option that the history
mentions most.

Invariant: the first three rules see only the displayed options, so any score above chance comes from a bias
of the data. "mentioned" takes the option with the longest run of words that occurs in the history: it always
personalises, whoever said the words and whether or not they may be used. On ties a rule takes the option
displayed first; the display order is shuffled for each row, so this favours no option.
"""

import re
from collections.abc import Sequence

from pydantic import JsonValue

from reward.mcq import LETTERS
from rft.data.history import History
from rft.data.question import Question
from rft.errors import DataError
from rft.evaluate.answer import Answer

RULES = ("longest", "shortest", "first", "mentioned")


class RuleAnswers:
    """The answerer of `--rule`.

    Args:
        rule: one of `RULES`; lengths are in characters.

    Raises:
        DataError: the rule is unknown.
    """

    def __init__(self, rule: str):
        if rule not in RULES:
            raise DataError(f"unknown rule {rule!r}; expected one of {', '.join(RULES)}")
        self.rule = rule
        self.context = "history" if rule == "mentioned" else "none"
        self.name = f"rule: {rule} option"
        self.settings: dict[str, JsonValue] = {"rule": rule}

    def answer(self, questions: Sequence[Question], history: History | None = None) -> list[Answer]:
        """Answers every question by the rule; only "mentioned" uses the history."""
        history_words = (
            "\n".join(_words(turn.content) for turn in history.turns) if history is not None else ""
        )
        return [Answer(self._completion(question, history_words)) for question in questions]

    def _completion(self, question: Question, history_words: str) -> str:
        if question.open_ended:  # there is no option to take
            return ""
        letter = choice(self.rule, question.options, history_words)
        return f"<think>Option ({letter}) is the {self.rule}.</think>\\boxed{{{letter}}}"


def choice(rule: str, options: Sequence[str], history_words: str = "") -> str:
    """The letter that a rule takes.

    Args:
        rule: one of `RULES`.
        options: the texts of the options, in display order.
        history_words: the words of a history (see `_words`), used only by "mentioned".
    """
    sizes = [
        _longest_run(option, history_words) if rule == "mentioned" else len(option) for option in options
    ]
    chosen_size = {"shortest": min(sizes), "first": sizes[0]}.get(rule, max(sizes))
    return LETTERS[sizes.index(chosen_size)]


def _words(text: str) -> str:
    """The words of a text in lower case, with a space around each."""
    return " " + " ".join(re.findall(r"\w+", text.casefold())) + " "


def _longest_run(option: str, history_words: str) -> int:
    """Length in characters of the longest run of the option's words that occurs in `history_words`."""
    words, longest = _words(option).split(), 0
    for start in range(len(words)):
        for stop in range(start + 1, len(words) + 1):
            run = " ".join(words[start:stop])
            if f" {run} " not in history_words:
                break
            longest = max(longest, len(run))
    return longest
