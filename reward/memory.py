"""Rewards for a memory itself, in addition to the answers given from it. All are off by default; a recipe
lists those to use.

A memory reward is a function `reward(memories, **columns) -> list[float | None]`: one number in 0..1 for each
of N trajectories, None if there is nothing to score. The columns describe the trajectories:

    memories   the memory stored after each update, oldest first
    chunks     the text that each update read
    cut        whether each update was too long, so that its last bullets were dropped
    empty      whether each update wrote no bullet, so that the previous memory was kept
    withdrawn  phrases that the user asked to forget
    history_id id of the history
    completions the last memory

and `trainer_state`, `log_metric` and `log_extra` as every reward (`reward.example`).

Invariant: an empty memory earns nothing, so forgetting everything never increases a reward; `within_budget`
alone also pays an update that says that nothing is to be remembered. The spelling of a phrase (case,
punctuation, spacing, invisible characters) makes no difference.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from reward.example import OF_A_RUN

# N consecutive words of the chunk are a copy; a preference in the user's own words is shorter
COPIED_WORDS = 8
COLUMNS = ("memories", "chunks", "cut", "empty", "withdrawn", "history_id", "completions", *OF_A_RUN)
PRESENT = 0.6  # a line mentions a withdrawn phrase if it contains at least this share of its words
_EMPTY_WORDS = frozenset(
    "the and for with that this from about into over user their they likes enjoys loves prefers does"
    " not".split()
)
_SECRETS = (
    re.compile(r"[\w.+-]+@[\w-]+\.\w+"),  # e-mail
    # nine digits or more: phone, card, account, document
    re.compile(r"(?<!\d)(?:\d[ ().-]{0,2}){8,}\d(?!\d)"),
    re.compile(r"(?<!\d)\d{3}[ .-]\d{2}[ .-]\d{4}(?!\d)"),  # social security
    re.compile(r"\b(?:sk|pk|ghp|hf|xox[bp])[-_]\w{8,}"),  # API keys
)


def within_budget(
    memories: Sequence[Sequence[str]],
    cut: Sequence[Sequence[bool]],
    empty: Sequence[Sequence[bool]],
    **columns: Any,
) -> list[float | None]:
    """Share of updates that wrote a memory within the budget; an update without a bullet does not count as
    one."""
    return [
        None if not stored else sum(not c and not e for c, e in zip(over, none, strict=True)) / len(stored)
        for stored, over, none in zip(memories, cut, empty, strict=True)
    ]


def not_copied(
    memories: Sequence[Sequence[str]], chunks: Sequence[Sequence[str]], **columns: Any
) -> list[float | None]:
    """Share of updates whose memory contains no `COPIED_WORDS` consecutive words of the chunk just read.

    One such run makes the update a copy, no matter how long the rest of the memory is.
    """
    return [
        (
            None
            if not stored
            else sum(
                bool(_words(memory)) and not _runs(memory) & _runs(chunk)
                for memory, chunk in zip(stored, read, strict=True)
            )
            / len(stored)
        )
        for stored, read in zip(memories, chunks, strict=True)
    ]


def forgotten_absent(
    memories: Sequence[Sequence[str]], withdrawn: Sequence[Sequence[str]], **columns: Any
) -> list[float | None]:
    """Share of withdrawn phrases that the last memory does not mention; 0 for an empty memory."""
    return [
        (
            None
            if not stored or not phrases
            else float(bool(_words(stored[-1])))
            * sum(not speaks_of(stored[-1], phrase) for phrase in phrases)
            / len(phrases)
        )
        for stored, phrases in zip(memories, withdrawn, strict=True)
    ]


def sensitive_absent(memories: Sequence[Sequence[str]], **columns: Any) -> list[float | None]:
    """1 if the last memory is not empty and contains no e-mail address, long number, social security number
    or API key; otherwise 0."""
    return [
        (
            None
            if not stored
            else float(
                bool(_words(stored[-1])) and not any(secret.search(_plain(stored[-1])) for secret in _SECRETS)
            )
        )
        for stored in memories
    ]


def speaks_of(memory: str, phrase: str) -> bool:
    """Returns whether a line of the memory mentions the phrase: it contains most of its content words, in any
    inflection."""
    phrase_words = {word for word in _words(phrase) if word not in _EMPTY_WORDS and len(word) > 2} or set(
        _words(phrase)
    )
    return bool(phrase_words) and any(
        sum(any(_alike(word, other) for other in line_words) for word in phrase_words)
        >= PRESENT * len(phrase_words)
        for line_words in (set(_words(line)) for line in memory.splitlines())
    )


def _alike(word: str, other: str) -> bool:
    stem = max(4, min(len(word), len(other)) - 3)
    return word == other or (
        min(len(word), len(other)) >= 4 and abs(len(word) - len(other)) <= 3 and word[:stem] == other[:stem]
    )


def _plain(text: str) -> str:
    """Returns the text with compatibility forms unified, invisible characters removed, in lower case."""
    text = unicodedata.normalize("NFKC", text)
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Mn")).casefold()


def _words(text: str) -> list[str]:
    """Returns the words of a text; spaced letters (j a z z) are one word."""
    joined = re.sub(
        r"(?<![^\W_])[^\W\d_](?:[\W_]{1,2}[^\W\d_](?![^\W_]))+",
        lambda run: re.sub(r"[\W_]", "", run[0]),
        _plain(text),
    )
    return re.findall(r"[^\W_]+", joined)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[i : i + COPIED_WORDS]) for i in range(len(words) - COPIED_WORDS + 1)}
