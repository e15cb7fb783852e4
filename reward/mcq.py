r"""The gated multiple-choice reward of PersonaMem-v2 (arXiv 2512.06688, section 4.2), made strict.

Invariant: a completion scores 1 only if it reasons inside think tags, closes every think block, and then
names one letter, the gold one, in a box (\boxed{b}). What cannot be read is wrong; nothing is guessed. With a
consistency gate, words that name another option than the box score 0 as well. Every step is linear in the
length of the text, whatever the text.

How a completion is read (`read`):
- The answer part is what follows the last `</think>`. Nothing before it counts, and there is no answer part
  while a block is open.
- A first tag `</think>` closes a block that the chat template opened at the end of the prompt.
- A box of the answer part names a letter if it holds one letter a-d, bare, in parentheses or in \text{}. All boxes
  are read alike, in whatever order: boxes of other content are passed over, two different letters are a
  contradiction, and a box that does not close before the next begins, or at the end, makes the answer unreadable.
- The words of the answer are the answer part without its boxes; `reward.naming` says which option they name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward.naming import mentions, named_letter, words

LETTERS = ("a", "b", "c", "d")
GATES = ("off", "contradiction", "naming")

_OPEN, _CLOSE = "<think>", "</think>"
_TAG = re.compile(f"({_OPEN}|{_CLOSE})")
# A letter or digit that leaves ink: punctuation, zero-width characters and blank Hangul fillers are no words.
_WORD = re.compile(r"[^\W_\u115f\u1160\u3164\uffa0]")
_LONE_LETTER = re.compile(r"(?<![a-zA-Z])[a-dA-D](?![a-zA-Z])")
_BOX_FORMS = ("{%s}", "{(%s)}", r"{\text{%s}}", r"{\text{(%s)}}", r"{(\text{%s})}")
_LETTER_OF_BOX = {form % shown: x for form in _BOX_FORMS for x in LETTERS for shown in (x, x.upper())}
_STYLE = re.compile(r"\\(?:textbf|textit|textrm|text|mathbf|mathrm|mathit|bf|rm|it|displaystyle)\b|[{}$*\s]")
_LENIENT = re.compile(r"\(?([a-d])(?:\)|[.,:;]|$)", re.IGNORECASE)
_BARE_BOX = re.compile(r"\s*\(?([a-dA-D])\)?(?![a-zA-Z])")


@dataclass(frozen=True)
class Reading:
    """What a completion says about a question with options.

    letter: the letter in the box, strictly read (None: unreadable). lenient: the same, where foreign forms count as well.
    answer_names, thought_names: the letter of the one option that the words of the answer (its letter's box left out) and of the
    thought name. answer_quotes: the same for the answer, if it names the option by more than its letter. answer_denies: the
    letters of the options that the answer denies and never names ("not tea"). mislabels: whether a sentence of either has the
    words of one option and the letter of another. thought_letter: the one letter in parentheses in the thought. thought_words:
    how many words the thought has. thought_vocabulary: how many different ones, single Latin letters left out. reasons: whether
    it passes the format gate. answer: the words of the answer.
    """

    letter: str | None
    lenient: str | None
    answer_names: str | None
    answer_quotes: str | None
    answer_denies: frozenset[str]
    thought_names: str | None
    thought_letter: str | None
    mislabels: bool
    thought_words: int
    thought_vocabulary: int
    reasons: bool
    answer: str

    def right(self, gold: str) -> bool:
        """The box names the gold letter, whatever the words say."""
        return self.letter == gold

    @property
    def consistent(self) -> bool:
        """The box names a letter, neither answer nor thought names another option than the box or an option by another's letter,
        and the answer does not deny the option of the box."""
        if self.letter is None or self.mislabels or self.letter in self.answer_denies:
            return False
        return {self.answer_names, self.thought_names} <= {None, self.letter}


def read(completion: Any, options: Sequence[str] | None = None) -> Reading:
    """Read `completion` (a string or a list of messages). Without `options` only letters in parentheses can be named."""
    thought, answer = _thought_and_answer(_text(completion) or "")
    said = without_boxes(answer)
    shown = options or ("",) * len(LETTERS)
    in_answer, in_thought, thought_words = mentions(said, shown), mentions(thought, shown), words(thought)
    return Reading(
        letter=mcq_letter(completion),
        lenient=lenient_letter(completion),
        answer_names=in_answer.option,
        answer_quotes=in_answer.quoted,
        answer_denies=in_answer.denied,
        thought_names=in_thought.option,
        thought_letter=named_letter(thought, len(shown)),
        mislabels=in_answer.mislabels or in_thought.mislabels,
        thought_words=len(thought_words),
        thought_vocabulary=len({word for word in thought_words if len(word) > 1 or not word.isascii()}),
        reasons=has_reasoning(completion),
        answer=" ".join(said.split()),
    )


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
    letters = {_LETTER_OF_BOX.get("".join(box.split())) for box in closed} - {None}
    named = {lone.lower() for box in closed for lone in _LONE_LETTER.findall(box)}
    return letters.pop() if len(letters) == 1 and named == letters else None


def lenient_letter(completion: Any) -> str | None:
    r"""The letter named in the answer part, where forms that other models use count as well: \boxed{B.}, \boxed{\textbf{b}},
    \boxed b, \boxed{(b) text}. Two different letters are none. For evaluation alone: the reward is strict."""
    if strict := mcq_letter(completion):
        return strict
    letters = set()
    for piece in answer_part(completion).split(r"\boxed")[1:]:
        box = _box(piece)
        if box is None:
            return None
        bare = _LENIENT.match(_STYLE.sub("", box)) if box else _BARE_BOX.match(piece)
        if bare:
            letters.add(bare[1].lower())
    return letters.pop() if len(letters) == 1 else None


def without_boxes(answer: str) -> str:
    r"""An answer part without the boxes that name a letter, and without what does not close; a box ends a sentence. What
    stands in a box of other content is said as well."""
    first, *pieces = answer.split(r"\boxed")
    kept = [first]
    for piece in pieces:
        box = _box(piece)
        if box is not None:
            names = "".join(box.split()) in _LETTER_OF_BOX
            kept.append(piece.lstrip()[len(box) * names :] if box else _BARE_BOX.sub("", piece, count=1))
    return "\n".join(kept).replace("$", " ")


def answer_part(completion: Any) -> str:
    """What `completion` says after its last think block; "" while a block is open."""
    return _thought_and_answer(_text(completion) or "")[1]


def has_reasoning(completion: Any) -> bool:
    """The format gate: words inside closed think tags, and words in the answer part."""
    thought, answer = _thought_and_answer(_text(completion) or "")
    return bool(_WORD.search(thought) and _WORD.search(answer))


def personamem(
    completions: Sequence[Any],
    answer: Sequence[str | None],
    options: Sequence[Sequence[str] | None] | None = None,
    consistency_gate: str = "off",
    min_thought_words: int = 1,
    finished: Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    """The reward of each completion: 1.0 if it passes the gates and names the gold letter, else 0.0.

    Args:
        completions: N completions, each a string or a list of messages of which the last is scored.
        answer: N gold letters, any case, also as "(b)" or "b."; None: an open-ended question.
        options: the options of each, for the consistency gate.
        consistency_gate: "contradiction": pay nothing if the words of the answer or of the thought name one option and the box
            another, the answer denies the option of the box, or a sentence has the words of one option and the letter of
            another; "naming": nor if the words of the answer do not name the option of the box, for options so short that an
            answer repeats them (its letter alone is no name); "off": look at the box alone.
        min_thought_words: pay nothing for a thought of fewer different words; from 2 on, single letters are no words.
        finished: whether each completion ended by itself; with a consistency gate one that was cut off is paid nothing, for
            nobody knows what it would have gone on to say.
        columns: whatever else the trainer passes along; ignored.

    Returns:
        N rewards; None for a row without a gold letter (an open-ended question) or without text to score.

    Raises:
        ValueError: `completions`, `answer` and `options` differ in length, a gold is no letter, or the gate has no options.
    """
    if len(completions) != len(answer):
        raise ValueError(
            f"reward.personamem: {len(completions)} completions but {len(answer)} answers; "
            "pass one gold letter for each completion"
        )
    if consistency_gate not in GATES:
        raise ValueError(f"reward.personamem: consistency_gate {consistency_gate!r}: expected one of {', '.join(GATES)}")
    if consistency_gate != "off" and options is None:
        raise ValueError("reward.personamem: the consistency gate compares words with options; pass the column `options`")
    shown = options if options is not None else [None] * len(completions)
    if len(shown) != len(completions):
        raise ValueError(
            f"reward.personamem: {len(completions)} completions but {len(shown)} lists of options; pass one for each"
        )
    scores = [
        _reward(completion, gold_letter(gold), of_row, consistency_gate, min_thought_words)
        for completion, gold, of_row in zip(completions, answer, shown, strict=True)
    ]
    if finished is None or consistency_gate == "off":
        return scores
    return [score and score * ended for score, ended in zip(scores, finished, strict=True)]


def paper(completions: Sequence[Any], answer: Sequence[str | None], **columns: Any) -> list[float | None]:
    """The reward as the paper has it: `personamem` without the consistency gate and without a floor of words."""
    return personamem(completions, answer)


def gold_letter(gold: Any) -> str | None:
    """A gold letter as "a" to "d", from "B", "(b)" or " b. "; None stays None.

    Raises:
        ValueError: anything else, which would never be paid and never be noticed.
    """
    if gold is None:
        return None
    letter = gold.strip().strip("().").strip().lower() if isinstance(gold, str) else ""
    if letter not in LETTERS:
        raise ValueError(
            f"reward.personamem: the gold {gold!r} is no letter; give one of {', '.join(LETTERS)}, or None for an open-ended "
            "question"
        )
    return letter


def _reward(completion: Any, gold: str | None, options: Sequence[str] | None, gate: str, floor: int) -> float | None:
    if gold is None or _text(completion) is None:
        return None
    if mcq_letter(completion) != gold or not has_reasoning(completion):
        return 0.0
    if floor == 1 and gate == "off":
        return 1.0
    said = read(completion, options)
    agrees = gate == "off" or (said.consistent and (gate != "naming" or said.answer_quotes == gold))
    return float(agrees and said.thought_vocabulary >= floor)


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
