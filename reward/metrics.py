"""What the mean reward hides of multiple-choice completions: how many name no letter, and which letters.

Invariant: every completion counts once in `answer_letters`; the counts add up to the number of completions.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from reward.mcq import LETTERS, has_reasoning, mcq_letter


def mcq_metrics(completions: Sequence[Any]) -> dict[str, Any]:
    """Counts and rates over N >= 1 completions (strings or message lists).

    Returns:
        unparsed_rate: share that names no letter in its answer part.
        format_rate: share that passes the format gate, whatever the letter.
        answer_letters: how many name "a", "b", "c", "d" and "none", gate or no gate.

    Raises:
        ValueError: there are no completions.
    """
    if not completions:
        raise ValueError("reward.mcq_metrics: no completions, so there is no rate; pass at least one")
    counts = Counter(mcq_letter(completion) or "none" for completion in completions)
    return {
        "unparsed_rate": counts["none"] / len(completions),
        "format_rate": sum(map(has_reasoning, completions)) / len(completions),
        "answer_letters": {letter: counts[letter] for letter in (*LETTERS, "none")},
    }
