r"""A question tests its own reward before anyone trains on it.

Invariant: a reward that passes pays 1 for the gold letter and 0 for each other letter, for an empty
completion, and for a gold answer cut off inside the think block or before its box closes.
"""

from collections.abc import Callable

from reward.mcq import LETTERS, personamem


def self_check(gold_letter: str, reward: Callable[..., list[float | None]] = personamem) -> None:
    """Score model answers to a question whose gold is `gold_letter` ("a" to "d") with `reward`.

    Raises:
        ValueError: the gold is no letter, or the first answer that does not score what it must.
    """
    if gold_letter not in LETTERS:
        raise ValueError(f"self-check: the gold is {gold_letter!r}; it must be one of {', '.join(LETTERS)}")
    gold = _completion(gold_letter)
    cases = [("the gold letter", gold, 1.0)]
    cases += [(f"the wrong letter {x}", _completion(x), 0.0) for x in LETTERS if x != gold_letter]
    cases += [
        ("an empty completion", "", 0.0),
        ("the gold cut off inside the think block", gold[: gold.index("</think>")], 0.0),
        ("the gold cut off before the box closes", gold[: gold.rindex("}")], 0.0),
    ]
    scores = reward(completions=[text for _, text, _ in cases], answer=[gold_letter] * len(cases))
    for (name, _, expected), score in zip(cases, scores, strict=True):
        if score != expected:
            raise ValueError(
                f"self-check, gold {gold_letter}: {name} scores {score}; it must score {expected:g}"
            )


def _completion(letter: str) -> str:
    boxed = rf"\boxed{{{letter}}}"
    return f"<think>\nWhat I know of the user speaks for {boxed}.\n</think>\n\nMy answer: {boxed}"
