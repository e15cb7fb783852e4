"""Rewards in pure Python, from text to numbers: verifiable rewards, and a judge for answers that no rule can
check.

A reward is a function `reward(completions, **columns) -> list[float | None]`, as TRL calls it: one number per
completion, None (never 0) if it could not be scored. Its columns are the fields of `Example`, the same in
every training; docs/rewards.md is the page on writing one.
"""

from reward.example import COLUMNS, Example, columns
from reward.free_text import exact_match, token_f1
from reward.judge import Judge, open_ended
from reward.loading import load
from reward.mcq import Reading, has_reasoning, mcq_letter, paper, personamem, read
from reward.selfcheck import self_check

__all__ = [
    "COLUMNS",
    "Example",
    "Judge",
    "Reading",
    "columns",
    "exact_match",
    "has_reasoning",
    "load",
    "mcq_letter",
    "open_ended",
    "paper",
    "personamem",
    "read",
    "self_check",
    "token_f1",
]
