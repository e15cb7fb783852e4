r"""A check before training: a correct answer survives the tokenizer.

A target is encoded as a continuation of the prompt, decoded like a completion, and must then score 1. If it
does not, a run would fail silently: think tags that are special tokens vanish in decoding, and no reward sees
that a completion reasons.
"""

import reward
from rft.data.prompt import CLOSE, OPEN, PromptTokens
from rft.errors import ModelError

TARGET = r"<think>Remembered: enjoys tea. Green tea is (b).</think>Green tea \boxed{b}"


def check_target(tokens: PromptTokens) -> None:
    """Checks that a correct answer scores 1 after this tokenizer has encoded and decoded it.

    Raises:
        ModelError: If it does not; the message names the cause.
    """
    tokenizer = tokens.tokenizer
    ids = tokenizer(tokens.continuation(TARGET), add_special_tokens=False)["input_ids"]
    decoded = tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True)
    if reward.personamem([decoded], ["b"]) == [1.0]:
        return
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if dropped := [
        tag for tag in (OPEN, CLOSE) if tag not in decoded and not (tag == OPEN and tokens.opens_thought)
    ]:
        raise ModelError(
            f"{name}: the tokenizer drops {' and '.join(dropped)} when it decodes (special tokens), so no"
            ' reward sees that a completion reasons; set `"special": false` for them in tokenizer.json and'
            " tokenizer_config.json"
        )
    raise ModelError(
        f"{name}: a correct answer, encoded and decoded by this tokenizer, becomes {decoded!r}, which"
        f" scores 0; expected {TARGET!r}"
    )
