"""What a memory is worth beside the answers given from it. All off by default: a recipe names those it wants.

A memory reward is a function `reward(memories, **columns) -> list[float | None]`: one number in 0..1 for each of N
trajectories, None where there is nothing to judge. A trajectory is given as it was written:

    memories   the memory stored after each update, oldest first
    chunks     the text that each update read
    cut        whether each update was over-long, so that its last bullets were lost
    empty      whether each update wrote no bullet, so that the memory before it stayed
    withdrawn  phrases that the user asked to forget

Invariant: a memory that says nothing earns nothing, so none of these is raised by forgetting everything; how a phrase is
spelled (case, punctuation, spacing, invisible characters) changes nothing.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

COPIED_WORDS = 8  # so many words of the chunk in a row are a copy; a preference named as the user named it is shorter
PRESENT = 0.6  # the share of a withdrawn phrase's words in one line that makes the line speak of it
_EMPTY_WORDS = frozenset(
    "the and for with that this from about into over user their they likes enjoys loves prefers does not".split()
)
_SECRETS = (
    re.compile(r"[\w.+-]+@[\w-]+\.\w+"),  # e-mail
    re.compile(r"(?<!\d)(?:\d[ ().-]{0,2}){8,}\d(?!\d)"),  # nine digits or more: phone, card, account, document
    re.compile(r"(?<!\d)\d{3}[ .-]\d{2}[ .-]\d{4}(?!\d)"),  # social security
    re.compile(r"\b(?:sk|pk|ghp|hf|xox[bp])[-_]\w{8,}"),  # API keys
)


def within_budget(
    memories: Sequence[Sequence[str]], cut: Sequence[Sequence[bool]], empty: Sequence[Sequence[bool]], **columns: Any
) -> list[float | None]:
    """The share of updates that wrote a memory and kept to the budget; an update without a bullet is none."""
    return [
        None if not stored else sum(not c and not e for c, e in zip(over, none, strict=True)) / len(stored)
        for stored, over, none in zip(memories, cut, empty, strict=True)
    ]


def not_copied(memories: Sequence[Sequence[str]], chunks: Sequence[Sequence[str]], **columns: Any) -> list[float | None]:
    """The share of updates whose memory holds no `COPIED_WORDS` words in a row of the chunk it has just read; one such run is
    enough, however much stands around it."""
    return [
        None
        if not stored
        else sum(
            bool(_words(memory)) and not _runs(memory) & _runs(chunk) for memory, chunk in zip(stored, read, strict=True)
        )
        / len(stored)
        for stored, read in zip(memories, chunks, strict=True)
    ]


def forgotten_absent(
    memories: Sequence[Sequence[str]], withdrawn: Sequence[Sequence[str]], **columns: Any
) -> list[float | None]:
    """The share of withdrawn phrases that the last memory does not speak of; 0 for a memory that says nothing at all."""
    return [
        None
        if not stored or not phrases
        else float(bool(_words(stored[-1]))) * sum(not speaks_of(stored[-1], phrase) for phrase in phrases) / len(phrases)
        for stored, phrases in zip(memories, withdrawn, strict=True)
    ]


def sensitive_absent(memories: Sequence[Sequence[str]], **columns: Any) -> list[float | None]:
    """1 if the last memory says something and holds no e-mail address, long number, social security number or API key, else
    0."""
    return [
        None
        if not stored
        else float(bool(_words(stored[-1])) and not any(secret.search(_plain(stored[-1])) for secret in _SECRETS))
        for stored in memories
    ]


def speaks_of(memory: str, phrase: str) -> bool:
    """Whether a line of the memory speaks of the phrase: it has most of its telling words, as they are or with another
    ending."""
    wanted = {word for word in _words(phrase) if word not in _EMPTY_WORDS and len(word) > 2} or set(_words(phrase))
    return bool(wanted) and any(
        sum(any(_alike(word, other) for other in said) for word in wanted) >= PRESENT * len(wanted)
        for said in (set(_words(line)) for line in memory.splitlines())
    )


def _alike(word: str, other: str) -> bool:
    stem = max(4, min(len(word), len(other)) - 3)
    return word == other or (
        min(len(word), len(other)) >= 4 and abs(len(word) - len(other)) <= 3 and word[:stem] == other[:stem]
    )


def _plain(text: str) -> str:
    """Compatibility forms unified, invisible characters out, lower case."""
    text = unicodedata.normalize("NFKC", text)
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Mn")).casefold()


def _words(text: str) -> list[str]:
    """The words of a text; letters that stand apart (j a z z) are one word."""
    joined = re.sub(
        r"(?<![^\W_])[^\W\d_](?:[\W_]{1,2}[^\W\d_](?![^\W_]))+", lambda run: re.sub(r"[\W_]", "", run[0]), _plain(text)
    )
    return re.findall(r"[^\W_]+", joined)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[i : i + COPIED_WORDS]) for i in range(len(words) - COPIED_WORDS + 1)}
