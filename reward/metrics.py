"""Metrics of completions to multiple-choice questions that separate skill from format, which the mean reward
mixes.

Invariant: everything is computed from readings (`reward.mcq.read`) and gold letters. Every completion counts
once in `answer_letters`, whose shares add up to 1.
"""

from collections import Counter
from collections.abc import Sequence

from reward.mcq import LETTERS, OPTIONS, Reading


def reading_metrics(
    readings: Sequence[Reading], golds: Sequence[str | None], options: int = OPTIONS
) -> dict[str, float]:
    """Computes rates over N >= 1 readings and their gold letters.

    Args:
        readings: the readings.
        golds: the gold letter of each.
        options: the largest number of options of a question.

    Returns:
        A dict with these keys; each rate is a share of the completions unless noted:
        unparsed_rate: the box names no letter.
        format_rate: the completion passes the format gate, whatever the letter.
        consistent: share of the readable answers that are consistent (`Reading.consistent`).
        thought_right: the thought names the gold option.
        answer_right: the words of the answer name the gold option.
        thought_words: mean number of words per thought.
        answer_letters/x: the box names x ("none": no letter).

    Raises:
        ValueError: there are no readings.
    """
    if not readings:
        raise ValueError("reward.reading_metrics: no completions, so rates are undefined; pass at least one")
    count = len(readings)
    letters = Counter(reading.letter or "none" for reading in readings)
    readable = [reading for reading in readings if reading.letter is not None]
    pairs = list(zip(readings, golds, strict=True))
    return {
        "unparsed_rate": letters["none"] / count,
        "format_rate": sum(reading.reasons for reading in readings) / count,
        **(
            {"consistent": sum(reading.consistent for reading in readable) / len(readable)}
            if readable
            else {}
        ),
        "thought_right": sum(reading.thought_names == gold for reading, gold in pairs) / count,
        "answer_right": sum(reading.answer_names == gold for reading, gold in pairs) / count,
        "thought_words": sum(reading.thought_words for reading in readings) / count,
        **{f"answer_letters/{letter}": letters[letter] / count for letter in (*LETTERS[:options], "none")},
    }
