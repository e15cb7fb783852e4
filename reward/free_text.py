r"""Rewards of answers in free text that are compared with accepted texts, without a judge.

Invariant: a completion scores above 0 only if it reasons inside think tags and then answers; a question that
cannot be answered from the history is right exactly if the answer says so. Only the answer part counts.

Normalization and token F1 are those of SQuAD (Rajpurkar et al., arXiv 1606.05250, evaluation script 1.1):
lower case, without punctuation and the articles a, an, the. Of several accepted texts the best one counts.
The content of a \boxed{...} is read as text.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from reward.mcq import answer_part, has_reasoning

ABSTENTIONS = (
    "cannot be known",
    "can not be known",
    "cant be known",
    "cannot be answered",
    "cannot be determined",
    "cannot know",
    "cant know",
    "not known",
    "unknown",
    "dont know",
    "do not know",
    "not mentioned",
    "not mention",
    "never mentioned",
    "didnt mention",
    "no mention",
    "not specified",
    "not stated",
    "not say",
    "doesnt say",
    "not told",
    "no information",
    "not enough information",
    "insufficient information",
    "unanswerable",
)
"""Words, as `normalized` writes them, by which an answer says that it cannot be known."""
_ABSTAINS = re.compile(rf"\b(?:{'|'.join(ABSTENTIONS)})\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "’‘“”")
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")


def exact_match(
    completions: Sequence[Any], accepted: Sequence[Sequence[str]], abstain: Sequence[bool], **columns: Any
) -> list[float | None]:
    """Scores each completion: 1.0 if its answer equals an accepted text once both are normalized, else 0.0.

    Args:
        completions: N completions.
        accepted: N lists of accepted texts.
        abstain: N times whether the right answer is that it cannot be known.
        columns: all other columns of a trainer; a row with a gold letter in `answer` is not scored.

    Returns:
        N rewards; None for a row that has options, or no accepted text to compare with.
    """
    return _scores(equal, completions, accepted, abstain, columns)


def token_f1(
    completions: Sequence[Any], accepted: Sequence[Sequence[str]], abstain: Sequence[bool], **columns: Any
) -> list[float | None]:
    """Scores each completion by the F1 of its answer's words with the best accepted text; arguments and
    result as of `exact_match`. If the right answer is to abstain, the score is 1.0 or 0.0."""
    return _scores(f1, completions, accepted, abstain, columns)


def normalized(text: str) -> str:
    """Returns a text in lower case without punctuation and articles, its words separated by single spaces."""
    plain = _BOXED.sub(r" \1 ", text).lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", plain).split())


def equal(answer: str, accepted: Sequence[str]) -> float:
    """Returns 1.0 if the answer equals one of the accepted texts once normalized, else 0.0."""
    return float(normalized(answer) in {normalized(text) for text in accepted})


def f1(answer: str, accepted: Sequence[str]) -> float:
    """Returns the largest token F1 of the answer with one of the accepted texts, from 0 to 1."""
    return max((_f1(normalized(answer).split(), normalized(text).split()) for text in accepted), default=0.0)


def abstains(answer: str) -> bool:
    """Returns whether an answer says that it cannot be known (`ABSTENTIONS`)."""
    return bool(_ABSTAINS.search(normalized(answer)))


def _f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    common = (Counter(said) & Counter(right)).total()
    return 2 * common / (len(said) + len(right))


def _scores(
    measure: Callable[[str, Sequence[str]], float],
    completions: Sequence[Any],
    accepted: Sequence[Sequence[str]],
    abstain: Sequence[bool],
    columns: dict[str, Any],
) -> list[float | None]:
    letters = columns.get("answer") or [None] * len(completions)
    return [
        None
        if letter is not None or not (texts or unknown)
        else 0.0
        if not has_reasoning(completion)
        else float(abstains(answer_part(completion)))
        if unknown
        else measure(answer_part(completion), texts)
        for completion, texts, unknown, letter in zip(completions, accepted, abstain, letters, strict=True)
    ]
