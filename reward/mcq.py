r"""The gated multiple-choice reward of PersonaMem-v2 (arXiv 2512.06688, section 4.2), made strict.

Invariant: a completion scores 1 only if it reasons inside think tags, closes every think block, and then
names one letter, the gold one, in a box (\boxed{b}). What cannot be read is wrong; nothing is guessed. Every
step is linear in the length of the text, whatever the text.

How a completion is read:
- The answer part is what follows the last `</think>`. Nothing before it counts, and there is no answer part
  while a block is open.
- A first tag `</think>` closes a block that the chat template opened at the end of the prompt.
- The last box of the answer part decides; it must hold one letter a-d, bare, in parentheses or in \text{}.
  No letter is named if another one stands alone in any box of the answer part (a contradiction), or if a box
  does not close before the next begins.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

LETTERS = ("a", "b", "c", "d")

_OPEN, _CLOSE = "<think>", "</think>"
_TAG = re.compile(f"({_OPEN}|{_CLOSE})")
# A letter or digit that leaves ink: punctuation, zero-width characters and blank Hangul fillers are no words.
_WORD = re.compile(r"[^\W_\u115f\u1160\u3164\uffa0]")
_LONE_LETTER = re.compile(r"(?<![a-zA-Z])[a-dA-D](?![a-zA-Z])")
_BOX_FORMS = ("{%s}", "{(%s)}", r"{\text{%s}}", r"{\text{(%s)}}", r"{(\text{%s})}")
_LETTER_OF_BOX = {form % shown: x for form in _BOX_FORMS for x in LETTERS for shown in (x, x.upper())}


def mcq_letter(completion: Any) -> str | None:
    r"""The letter ("a" to "d") named in the answer part of `completion`, or None.

    This looks at the answer alone and leaves the gate to `has_reasoning`: a text without any think tag is all
    answer, so that models that do not think can be measured too.
    """
    answer = answer_part(completion)
    boxes = [_box(piece) for piece in answer.split(r"\boxed")[1:]]
    closed = [box for box in boxes if box is not None]
    if not boxes or len(closed) < len(boxes):
        return None
    letter = _LETTER_OF_BOX.get("".join(closed[-1].split()))
    named = {lone.lower() for box in closed for lone in _LONE_LETTER.findall(box)}
    return letter if named == {letter} else None


def answer_part(completion: Any) -> str:
    """What `completion` says after its last think block; "" while a block is open."""
    return _thought_and_answer(_text(completion) or "")[1]


def has_reasoning(completion: Any) -> bool:
    """The format gate: words inside closed think tags, and words in the answer part."""
    thought, answer = _thought_and_answer(_text(completion) or "")
    return bool(_WORD.search(thought) and _WORD.search(answer))


def personamem(
    completions: Sequence[Any], answer: Sequence[str | None], **columns: Any
) -> list[float | None]:
    """The reward of each completion: 1.0 if it passes the gate and names the gold letter, else 0.0.

    Args:
        completions: N completions, each a string or a list of messages of which the last is scored.
        answer: N gold letters, any case.
        columns: whatever else the trainer passes along; ignored.

    Returns:
        N rewards; None for a row without a gold letter (an open-ended question) or without text to score.

    Raises:
        ValueError: `completions` and `answer` differ in length.
    """
    if len(completions) != len(answer):
        raise ValueError(
            f"reward.personamem: {len(completions)} completions but {len(answer)} answers; "
            "pass one gold letter for each completion"
        )
    return [_reward(completion, gold) for completion, gold in zip(completions, answer, strict=True)]


def _reward(completion: Any, gold: Any) -> float | None:
    if not isinstance(gold, str) or gold.lower() not in LETTERS or _text(completion) is None:
        return None
    return float(has_reasoning(completion) and mcq_letter(completion) == gold.lower())


def _text(completion: Any) -> str | None:
    """The text of a completion, think tags included; None if it is neither a string nor a list of messages.

    A message may carry its reasoning apart in `reasoning_content`, as parsers of chat responses leave it. It
    goes back in front of a closing tag: so reads a completion whose think block was opened in the prompt.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, Sequence) or not all(isinstance(turn, Mapping) for turn in completion):
        return None
    message = completion[-1] if completion else {}
    if message.get("role", "assistant") != "assistant":
        return ""  # it ended on a tool's words, not on its own
    content, reasoning = message.get("content") or "", message.get("reasoning_content") or ""
    if not isinstance(content, str) or not isinstance(reasoning, str):
        return None
    return f"{reasoning}{_CLOSE}{content}" if reasoning else content


def _thought_and_answer(text: str) -> tuple[str, str]:
    """What is said inside think blocks, and what follows the last one ("" while a block is still open)."""
    parts = _TAG.split(text)  # text, tag, text, tag, ..., text
    depth = 1 if len(parts) > 1 and parts[1] == _CLOSE else 0
    thought = []
    for said, tag in zip(parts[::2], parts[1::2], strict=False):
        if depth:
            thought.append(said)
        depth = depth + 1 if tag == _OPEN else max(depth - 1, 0)
    return " ".join(thought), "" if depth else parts[-1]


def _box(piece: str) -> str | None:
    r"""The braces right after a \boxed and all inside; None if they never close, "" if there are none."""
    piece = piece.lstrip()
    depth = 0
    for i, char in enumerate(piece):
        depth += (char == "{") - (char == "}")
        if depth <= 0:
            return piece[: i + 1] if i else ""
    return None
