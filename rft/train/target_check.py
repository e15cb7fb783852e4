r"""Before training: a correct answer survives what the tokenizer does to it, and the rewards tell it from a wrong one.

A target is encoded, follows the template's prompt, is decoded as completions are, and must then score 1. What breaks this
breaks a run in silence: think tags that are special tokens vanish on decoding, and no reward sees that a completion reasons.
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
    """Raises ModelError, naming the cause, where a correct answer would not score 1 behind this tokenizer's prompts."""
    tokenizer = tokens.tokenizer
    ids = tokenizer(tokens.continuation(TARGET), add_special_tokens=False)["input_ids"]
    said = tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True)
    if reward.personamem([said], ["b"]) == [1.0]:
        return
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if dropped := [tag for tag in (OPEN, CLOSE) if tag not in said and not (tag == OPEN and tokens.opens_thought)]:
        raise ModelError(
            f"{name}: the tokenizer drops {' and '.join(dropped)} when it decodes (special tokens), so no reward sees that a "
            'completion reasons; set `"special": false` for them in tokenizer.json and tokenizer_config.json'
        )
    raise ModelError(
        f"{name}: a correct answer, encoded and decoded by this tokenizer, is {said!r}, which scores 0; expected {TARGET!r}"
    )


def check_rewards(rewards: Sequence[Callable[..., Any]], rows: Dataset, right: str, tokenizer: Any) -> None:
    """Warns if the rewards give the same to a right answer, a wrong one and none: then nothing can be learned.

    rows: the training rows, of which the first is asked; right: a completion that answers its question.
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
        except Exception as error:  # somebody's own code, which may ask for what only a training has
            logger.info("the rewards are not tried before the first step (%s: %s)", type(error).__name__, error)
            return
    if given and all(isinstance(scores, list) and len(set(scores)) == 1 for scores in given):
        logger.warning("the rewards give a right answer, a wrong one and an empty one the same (%s): nothing can be learned from "
                       "them; look at `rewards`", ", ".join(str(scores[0]) for scores in given))
