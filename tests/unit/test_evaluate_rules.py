"""The rules answer as they say, in a form that the reward reads."""

import pytest

from reward import has_reasoning, mcq_letter
from rft.data.history import History, Message
from rft.data.question import Question
from rft.errors import DataError
from rft.evaluate.rules import RULES, RuleAnswers

LABELS = {"kind": "tea"}


def question(*options):
    return Question("benchmark-0", 0, "1", "h", "What should I drink?", options, "a", LABELS)


@pytest.mark.parametrize(("rule", "letter"), [("longest", "b"), ("shortest", "c"), ("first", "a")])
def test_each_rule(rule, letter):
    [answer] = RuleAnswers(rule).answer([question("some tea", "a glass of milk", "mate", "coffee")])
    assert mcq_letter(answer.completion) == letter and has_reasoning(answer.completion)
    assert answer.input_tokens == 0 and answer.finished


def test_of_equals_the_first_displayed():
    tied = question("short", "longest", "LONGEST", "SHORT")
    assert [mcq_letter(RuleAnswers(rule).answer([tied])[0].completion) for rule in RULES] == [
        "b",
        "a",
        "a",
        "a",
    ]


def test_mentioned_takes_what_the_history_says_most_of_whosever_it_is():
    told = Message("user", "My brother is drinking GREEN tea, and has a glass.")
    said = History("h", "1", "h.json", (told, Message("assistant", "Nice.")))
    options = ("a glass of milk", "mate", "Try drinking green tea.", "tea greens")
    [answer] = RuleAnswers("mentioned").answer([question(*options)], said)
    assert mcq_letter(answer.completion) == "c"
    assert RuleAnswers("mentioned").context == "history" and RuleAnswers("longest").context == "none"


def test_an_unknown_rule_is_named():
    with pytest.raises(
        DataError, match="unknown rule 'middle'; expected one of longest, shortest, first, mentioned"
    ):
        RuleAnswers("middle")
