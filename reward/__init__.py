"""What a completion is worth: verifiable rewards in pure Python, nothing but text in and numbers out.

A reward is a function `reward(completions, **columns) -> list[float | None]`, as TRL calls it: one number for
each completion, None (never 0) where it could not be scored.
"""

from reward.mcq import has_reasoning, mcq_letter, personamem
from reward.metrics import mcq_metrics
from reward.named import load
from reward.selfcheck import self_check

__all__ = ["has_reasoning", "load", "mcq_letter", "mcq_metrics", "personamem", "self_check"]
