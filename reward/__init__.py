"""What a completion is worth: rewards in pure Python, text in and numbers out; verifiable ones, and a judge where only
reading can tell.

A reward is a function `reward(completions, **columns) -> list[float | None]`, as TRL calls it: one number for
each completion, None (never 0) where it could not be scored.
"""

from reward.judge import Judge, open_ended
from reward.loading import load
from reward.mcq import Reading, has_reasoning, mcq_letter, paper, personamem, read
from reward.metrics import reading_metrics
from reward.selfcheck import self_check

__all__ = ["Judge", "Reading", "has_reasoning", "load", "mcq_letter", "open_ended", "paper", "personamem", "read",
           "reading_metrics", "self_check"]
