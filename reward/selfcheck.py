r"""Self-check of the reward on each question before training.

Invariant: a reward that passes gives 1 for the gold letter, and 0 for every other letter, for an empty
completion, and for a gold answer that is cut off inside the think block or before its box closes.
"""

from collections.abc import Callable, Sequence

from reward.mcq import LETTERS, OPTIONS, personamem


def self_check(
    gold_letter: str,
    reward: Callable[..., list[float | None]] = personamem,
    options: Sequence[str] = ("",) * OPTIONS,
) -> None:
    """Checks the scores that `reward` gives to test answers of a question.

    Args:
        gold_letter: the gold letter, such as "a".
        reward: the reward to check.
        options: the options of the question.

    Raises:
        ValueError: the gold is not a letter, or an answer gets a wrong score; names the first such answer.
    """
    letters = LETTERS[: len(options)]
    if gold_letter not in letters:
        raise ValueError(f"self-check: the gold is {gold_letter!r}; it must be one of {', '.join(letters)}")
    gold = _completion(gold_letter)
    cases = [("the gold letter", gold, 1.0)]
    cases += [(f"the wrong letter {x}", _completion(x), 0.0) for x in letters if x != gold_letter]
    cases += [
        ("an empty completion", "", 0.0),
        ("the gold cut off inside the think block", gold[: gold.index("</think>")], 0.0),
        ("the gold cut off before the box closes", gold[: gold.rindex("}")], 0.0),
    ]
    shown = {"options": [list(options)] * len(cases)} if len(options) != OPTIONS else {}
    scores = reward(completions=[text for _, text, _ in cases], answer=[gold_letter] * len(cases), **shown)
    for (name, _, expected), score in zip(cases, scores, strict=True):
        if score != expected:
            raise ValueError(
                f"self-check, gold {gold_letter}: {name} scores {score}; it must score {expected:g}"
            )


def _completion(letter: str) -> str:
    boxed = rf"\boxed{{{letter}}}"
    return f"<think>\nWhat I know of the user speaks for {boxed}.\n</think>\n\nMy answer: {boxed}"
