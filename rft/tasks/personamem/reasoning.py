"""The thought that a cold start on PersonaMem imitates, made from the labels."""

import re

from rft.data.control import inert
from rft.data.question import Question
from rft.tasks.base import UNNAMED, short_option
from rft.tasks.personamem.labels import judged

VERDICTS = {
    "own": "",
    "others": ", not the user's own",
    "forget": ", forget it",
    "sensitive": ", not to be repeated",
    "none": ", given up",
}


def reasoning(question: Question, knows: bool = True) -> str:
    """Returns a short true reason for the gold option, made from the labels: the cold start's target for the
    think block.

    The reason first states the preference and then whether it may be used: this is easier to decide once the
    preference is named.

    Args:
        question: The question to answer.
        knows: False if the prompt contains no history, so that nothing can be remembered.
    """
    case, held = judged(question)
    held = "something sensitive" if case == "sensitive" else held
    knows = knows and bool(held)
    # never the user's, or given up
    verdict = VERDICTS["others" if case == "none" and not question.labels["updated"] else case]
    known = f"Remembered: {inert(held).rstrip('.')}{verdict}." if knows else "Remembered: nothing."
    return f"{known} {named(question)} is ({question.gold})."


def named(question: Question) -> str:
    """Returns how an answer names its gold option.

    This is the option's text if it is short; otherwise the end of the preference if the option contains it in
    the same words.
    """
    if (short := short_option(question)) is not None:
        return short
    option = inert(question.gold_text)
    words = inert(question.labels["preference"]).rstrip(".").split()
    # the longest first
    ends = (" ".join(words[start:]) for start in range(1, len(words)) if len(words[start]) > 3)
    said = next((end for end in ends if re.search(rf"\b{re.escape(end)}\b", option, re.IGNORECASE)), "")
    return said[0].upper() + said[1:] if said else UNNAMED
