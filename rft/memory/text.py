"""What a memory is: a short plain text of bullets, one thing about the user a line.

Invariant: a memory is made of lines that begin with "- " and of nothing else, and never has more tokens than its budget.
Whatever a model writes becomes such a text or leaves the previous memory as it was; nothing of its think blocks is stored.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rft.errors import DataError

EMPTY = "(empty)"  # how a memory of nothing is shown to a model, and how it says that nothing is to be remembered
FORGOTTEN = "forgotten"  # what stands behind the topic of something withdrawn
TOPIC_WORDS = 3  # a longer beginning is no name of a topic
FORGET = re.compile(r"[,.;]?\s*forget (?:it|that|this)\W*$", re.IGNORECASE)
BULLET = re.compile(r"(?:[-*•+]|\d{1,3}[.)])\s+(\S.*)")

Count = Callable[[str], int]  # how many tokens a text has


@dataclass(frozen=True)
class Update:
    """What came of one update: the memory from now on, and whether what the model wrote was over-long (`cut`: its last
    bullets are gone) or without a single whole bullet (`empty`: the previous memory stays)."""

    memory: str
    cut: bool = False
    empty: bool = False


def bullets(text: str) -> list[str]:
    """The bullets of a text as a model writes it, think blocks left out; lines that are none, such as a heading, are left out
    too."""
    found = [BULLET.match(line.strip()) for line in _said(text).splitlines()]
    return [" ".join(match[1].split()) for match in found if match]


def accept(written: str, previous: str, finished: bool, budget: int, count: Count) -> Update:
    """The memory after an update.

    written: what the model wrote; finished: False where it ran into its longest length, so that its last line is cut short;
    budget: tokens a memory may have, as `count` counts them.
    """
    if finished and _said(written).strip() == EMPTY:
        return Update("")
    lines = bullets(written)
    if not finished and lines:
        lines.pop()
    stored = [line for line in dict.fromkeys(map(without_forgotten, lines)) if line]  # what is said twice is kept once
    kept = _longest_that_fits(stored, budget, count)
    if not kept and (stored or not lines):
        return Update(previous, cut=bool(lines) or not finished, empty=True)
    return Update(join(kept), cut=not finished or len(kept) < len(stored))


def without_forgotten(line: str) -> str:
    """A bullet as it is stored. One that ends in "forget it" is how a model says that the user has withdrawn what it tells:
    of it only the topic stays, where it names one before a colon ("music: forgotten."), and else nothing ("")."""
    if not FORGET.search(line):
        return line
    topic, colon, _ = line.partition(": ")
    return f"{topic}: {FORGOTTEN}." if colon and len(topic.split()) <= TOPIC_WORDS else ""


def join(lines: list[str]) -> str:
    """Bullets as a memory."""
    return "\n".join(f"- {line}" for line in lines)


def read(text: str, where: str, budget: int, count: Count) -> str:
    """A memory that somebody may have edited by hand.

    Raises:
        DataError: naming `where` and the line that is no bullet, or the two numbers of a memory beyond its budget.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("- "):
            raise DataError(f'{where}: line {number} is no bullet ({line[:40]!r}); every line of a memory begins with "- "')
        if any(ord(character) < 32 and character != "\t" for character in line):
            raise DataError(f"{where}: line {number} holds control characters; a memory is plain text")
    memory = "\n".join(line.rstrip() for line in lines if line.strip())
    if (tokens := count(memory)) > budget:
        raise DataError(f"{where}: {tokens} tokens, but a memory has at most {budget}; remove some lines or raise the budget")
    return memory


def changes(before: str, after: str) -> list[tuple[Literal["kept", "added", "removed"], str]]:
    """The lines of two versions of a memory, in order, each kept, added or removed; a line that changed is removed and
    added."""
    from difflib import SequenceMatcher

    old, new = before.splitlines(), after.splitlines()
    said: list[tuple[Literal["kept", "added", "removed"], str]] = []
    for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            said += [("kept", line) for line in old[a:b]]
        else:
            said += [("removed", line) for line in old[a:b]] + [("added", line) for line in new[c:d]]
    return said


def _said(text: str) -> str:
    """What is written outside of think blocks: behind the last that closes, and before one that does not."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def _longest_that_fits(lines: list[str], budget: int, count: Count) -> list[str]:
    """The longest beginning of the lines with at most `budget` tokens (a longer text never has fewer)."""
    low, high = 0, len(lines)
    while low < high:
        middle = (low + high + 1) // 2
        if count(join(lines[:middle])) <= budget:
            low = middle
        else:
            high = middle - 1
    return lines[:low]
