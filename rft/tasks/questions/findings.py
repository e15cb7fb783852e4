"""What the LLM finds in a part of a history, and the check of each finding against the history.

Invariant: a finding that passes names a message of the user that was shown to the LLM and contains the quoted
words, verbatim but for white space.
"""

from collections.abc import Collection
from typing import Literal

from rft.data.control import inert
from rft.data.faults import mentions, text_faults
from rft.data.history import History
from rft.llm.forms import Answer


class Finding(Answer):
    kind: Literal["revealed", "updated", "withdrawn", "others"]
    topic: str
    statement: str
    keyword: str
    message: int
    quote: str


class Findings(Answer):
    preferences: list[Finding]


def reason_against(finding: Finding, history: History, shown: Collection[int]) -> str:
    """Returns why a finding cannot be used, or "" if it can.

    Args:
        finding: what the LLM returned.
        history: the whole history.
        shown: indices of the messages that the LLM was shown.
    """
    if finding.message not in shown:
        return "it names a message that was not shown"
    message = history.messages[finding.message]
    if message.role != "user":
        return "the message is not the user's"
    quote = one_spaced(inert(finding.quote))
    if not quote or quote not in one_spaced(inert(message.content)):
        return "the quoted words are not in the message"
    named = finding.topic.strip() and finding.keyword.strip()
    if not named or not mentions(finding.keyword, finding.statement):
        return "it has no topic, or its keyword is not in its statement"
    return next(iter(text_faults(finding.topic, finding.statement)), "")


def one_spaced(text: str) -> str:
    """Returns a text with single spaces."""
    return " ".join(text.split())
