r"""Before training: a correct answer survives what the tokenizer does to it.

A target is encoded, follows the template's prompt, is decoded as completions are, and must then score 1. What breaks this
breaks a run in silence: think tags that are special tokens vanish on decoding, and no reward sees that a completion reasons.
"""

import reward
from rft.data.prompt import CLOSE, OPEN, PromptTokens
from rft.errors import ModelError

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
