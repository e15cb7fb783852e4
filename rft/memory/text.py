"""The text of a memory: a short plain text of bullets, one fact about the user per line.

Invariant: every line of a memory begins with "- ", no line contains control characters, and a memory never
exceeds its token budget. Model output either becomes such a text or leaves the previous memory unchanged;
think blocks are never stored. What `accept` returns, `read` accepts.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rft.errors import DataError

# shown to the model for an empty memory; the model writes it if there is nothing to remember
EMPTY = "(empty)"
FORGOTTEN = "forgotten"  # written after the topic of a withdrawn preference
TOPIC_WORDS = 3  # text before the colon with more words is not a topic
FORGET = re.compile(r"[,.;]?\s*forget (?:it|that|this)\W*$", re.IGNORECASE)
BULLET = re.compile(r"(?:[-*•+]|\d{1,3}[.)])\s+(\S.*)")
# a terminal's commands, such as colors, and other control characters except tab and line feed
CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Count = Callable[[str], int]  # counts the tokens of a text


@dataclass(frozen=True)
class Update:
    """The result of one update.

    Attributes:
        memory: the memory after the update.
        cut: the model output was too long, so its last bullets were dropped.
        empty: the model output contained no complete bullet, so the previous memory is kept.
    """

    memory: str
    cut: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Proposal:
    """The result of an update, and the number of input and output tokens (None: unknown)."""

    update: Update
    input_tokens: int | None
    output_tokens: int | None


def bullets(text: str) -> list[str]:
    """Returns the bullets of a model output, without think blocks, control characters and other lines such as
    headings."""
    plain = CONTROL.sub("", _outside_thoughts(text))
    matches = [BULLET.match(line.strip()) for line in plain.split("\n")]
    return [" ".join(match[1].split()) for match in matches if match]


def accept(written: str, previous: str, finished: bool, budget: int, count: Count) -> Update:
    """Returns the result of an update.

    Args:
        written: the model output.
        previous: the memory before the update.
        finished: False if generation stopped at the maximum length, so that the last line is incomplete.
        budget: maximum tokens of a memory.
        count: counts the tokens of a text.
    """
    if finished and _outside_thoughts(written).strip() == EMPTY:
        return Update("")
    lines = bullets(written)
    if not finished and lines:
        lines.pop()
    # duplicates are stored once
    stored = [line for line in dict.fromkeys(map(without_forgotten, lines)) if line]
    kept = _longest_that_fits(stored, budget, count)
    if not kept and (stored or not lines):
        return Update(previous, cut=bool(lines) or not finished, empty=True)
    return Update(join(kept), cut=not finished or len(kept) < len(stored))


def without_forgotten(line: str) -> str:
    """Returns a bullet as it is stored.

    A bullet that ends in "forget it" marks a preference the user has withdrawn. If it names a topic before a
    colon, only the topic is stored ("music: forgotten."), otherwise nothing ("").
    """
    if not FORGET.search(line):
        return line
    topic, colon, _ = line.partition(": ")
    return f"{topic}: {FORGOTTEN}." if colon and len(topic.split()) <= TOPIC_WORDS else ""


def join(lines: list[str]) -> str:
    """Joins bullets into a memory."""
    return "\n".join(f"- {line}" for line in lines)


def read(text: str, where: str, budget: int, count: Count) -> str:
    """Validates a memory that may have been edited by hand.

    Args:
        text: content of the memory file.
        where: name of the file, for error messages.
        budget: maximum tokens of a memory.
        count: counts the tokens of a text.

    Returns:
        The memory, without blank lines and trailing spaces; a bullet such as "* " or "1. " becomes "- ".

    Raises:
        DataError: a line is not a bullet or contains control characters, or the memory exceeds its budget.
    """
    kept = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if CONTROL.search(line):
            raise DataError(
                f"{where}: line {number} contains control characters; remove them: a memory is plain text"
            )
        if not line.strip():
            continue
        bullet = BULLET.match(line.strip())
        if not bullet:
            raise DataError(
                f"{where}: line {number} is not a bullet ({line[:40]!r}); every line of a memory begins with"
                ' "- "'
            )
        kept.append(bullet[1])
    memory = join(kept)
    if (tokens := count(memory)) > budget:
        raise DataError(
            f"{where}: {tokens} tokens, but at most {budget} are allowed; remove some lines or raise the"
            " budget"
        )
    return memory


def changes(before: str, after: str) -> list[tuple[Literal["kept", "added", "removed"], str]]:
    """Compares two versions of a memory line by line.

    Returns:
        ("kept" | "added" | "removed", line) in order; a changed line is removed and added.
    """
    from difflib import SequenceMatcher

    old, new = before.splitlines(), after.splitlines()
    marked: list[tuple[Literal["kept", "added", "removed"], str]] = []
    for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            marked += [("kept", line) for line in old[a:b]]
        else:
            marked += [("removed", line) for line in old[a:b]] + [("added", line) for line in new[c:d]]
    return marked


def _outside_thoughts(text: str) -> str:
    """Returns the text outside think blocks: after the last closing tag and before an unclosed block."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def _longest_that_fits(lines: list[str], budget: int, count: Count) -> list[str]:
    """Returns the first N lines, as many as fit into `budget` tokens (more text never has fewer tokens)."""
    longest = bisect_right(range(1, len(lines) + 1), budget, key=lambda n: count(join(lines[:n])))
    return lines[:longest]
