r"""Checks before training: a correct answer survives the tokenizer, and the rewards distinguish it from a
wrong one.

A target is encoded as a continuation of the prompt, decoded like a completion, and must then score 1. If it
does not, a run would fail silently: think tags that are special tokens vanish in decoding, and no reward sees
that a completion reasons.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset

import reward
from rft.data.prompt import CLOSE, OPEN, PromptTokens
from rft.data.question import LETTERS
from rft.errors import ModelError

logger = logging.getLogger(__name__)

TARGET = r"<think>Remembered: enjoys tea. Green tea is (b).</think>Green tea \boxed{b}"


def check_target(tokens: PromptTokens) -> None:
    """Checks that a correct answer scores 1 after this tokenizer has encoded and decoded it.

    Raises:
        ModelError: If it does not; the message names the cause.
    """
    tokenizer = tokens.tokenizer
    ids = tokenizer(tokens.continuation(TARGET), add_special_tokens=False)["input_ids"]
    said = tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True)
    if reward.personamem([said], ["b"]) == [1.0]:
        return
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if dropped := [
        tag for tag in (OPEN, CLOSE) if tag not in said and not (tag == OPEN and tokens.opens_thought)
    ]:
        raise ModelError(
            f"{name}: the tokenizer drops {' and '.join(dropped)} when it decodes (special tokens), so no"
            ' reward sees that a completion reasons; set `"special": false` for them in tokenizer.json and'
            " tokenizer_config.json"
        )
    raise ModelError(
        f"{name}: a correct answer, encoded and decoded by this tokenizer, becomes {said!r}, which scores 0;"
        f" expected {TARGET!r}"
    )


def check_rewards(rewards: Sequence[Callable[..., Any]], rows: Dataset, right: str, tokenizer: Any) -> None:
    """Warns if the rewards give a correct, a wrong and an empty answer the same score: then nothing can be
    learned.

    Args:
        rewards: Reward functions.
        rows: Training rows; only the first is used.
        right: A completion that answers its question correctly.
        tokenizer: Encodes the answers.
    """
    row = dict(rows[0])
    wrong = next(letter for letter in LETTERS if letter != row["answer"])
    tried = [right, right.replace(f"\\boxed{{{row['answer']}}}", f"\\boxed{{{wrong}}}"), ""]
    columns = {name: [value] * len(tried) for name, value in row.items()}
    prompts = columns.pop("prompt")
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in tried]
    given = []
    for function in rewards:
        try:
            given.append(function(prompts=prompts, completions=tried, completion_ids=ids, **columns))
        except Exception as error:  # a user's own code, which may need what exists only in a training
            logger.info(
                "cannot check the rewards before the first step (%s: %s)", type(error).__name__, error
            )
            return
    if given and all(isinstance(scores, list) and len(set(scores)) == 1 for scores in given):
        logger.warning(
            "the rewards give a correct answer, a wrong one and an empty one the same score (%s): nothing can"
            " be learned from them; check `rewards`",
            ", ".join(str(scores[0]) for scores in given),
        )
