"""Faults of a written question, by fixed rules; no model judges here.

Invariant: a question without a fault does not tell its preference in the query, has four different options
without a preamble, only its gold uses a preference that holds and the gold uses none that does not hold, and
none of its texts contains a control character or a personal item that could belong to a real person.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Protocol

from rft.data.private import plausible_items

PREAMBLE = re.compile(
    r"^(sure|certainly|of course|here is|here's|option|answer|\(?[a-d]\))\b[,:!)]", re.IGNORECASE
)
LONGEST = 800  # maximum characters per option
TELLING = 12  # minimum length in characters; a shorter label ("Tea") may occur in a text by chance


class Item(Protocol):
    """A question as it is written: a query, the right answer and the wrong ones."""

    @property
    def query(self) -> str: ...

    @property
    def gold(self) -> str: ...

    @property
    def distractors(self) -> list[str]: ...


def question_faults(item: Item, stated: Sequence[str], keyword: str, used: bool) -> list[str]:
    """Returns the faults of a question; empty if there are none.

    Args:
        item: the question.
        stated: descriptions of the preference, which the query must not contain.
        keyword: words that tell the preference from others.
        used: whether the gold must use the preference, and the distractors must not; otherwise the gold must
            not.
    """
    faults, options = [], [item.gold, *item.distractors]
    query = fold(item.query)
    if any(contains(query, text) for text in (*stated, keyword)) or mentions(keyword, item.query):
        faults.append("the query tells the preference")
    if len(item.distractors) != 3 or len(set(map(fold, options))) != 4:
        faults.append("not four different options")
    if any(not option.strip() or len(option) > LONGEST for option in options) or not item.query.strip():
        faults.append(f"an empty text, or an option of more than {LONGEST} characters")
    if any(PREAMBLE.match(option.strip()) for option in options):
        faults.append("an option begins with a preamble")
    if not used and mentions(keyword, item.gold):
        faults.append("the gold uses what must not be used")
    if used and any(mentions(keyword, o) for o in item.distractors):
        faults.append("a distractor uses the preference too")
    return faults + text_faults(item.query, *options)


def text_faults(*texts: str) -> list[str]:
    """Returns the faults of texts that a dataset is to contain; empty if there are none."""
    faults = []
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for text in texts for c in text):
        faults.append("a control character in a text")
    if any(plausible_items(text) for text in texts):
        faults.append("a personal item that could belong to a real person")
    return faults


def mentions(keyword: str, text: str) -> bool:
    """Whether `text` contains `keyword` as whole words, ignoring case and kinds of white space."""
    return re.search(rf"(?<!\w){re.escape(fold(keyword))}(?!\w)", fold(text)) is not None


def contains(text: str, label: str) -> bool:
    """Whether a folded text contains a label that is too long to occur in it by chance."""
    label = fold(label)
    return len(label) >= TELLING and label in text


def fold(text: str) -> str:
    """Returns a text in lower case with single spaces."""
    return " ".join(text.casefold().split())
