r"""The gated multiple-choice reward of PersonaMem-v2 (arXiv 2512.06688, section 4.2), made strict, for 2 to
26 options.

Invariant: a completion scores 1 only if it reasons inside think tags, closes every think block, and then
names one letter, the gold one, in a box (\boxed{b}). An unreadable answer is wrong; nothing is guessed. With
a consistency gate, words that name another option than the box score 0 as well. Every step takes time linear
in the length of the text, for any text.

How a completion is read (`read`):
- The answer part is the text after the last `</think>`. Nothing before it counts. If a block is still open,
  there is no answer part.
- If the first tag is `</think>`, it closes a block that the chat template opened at the end of the prompt.
- A box in the answer part names a letter if it contains one letter of the options (a-d for four), bare, in
  parentheses or in \text{}.
  All boxes count equally, in any order: boxes with other content are ignored, two different letters are a
  contradiction, and a box that does not close before the next one or the end makes the answer unreadable.
- The words of the answer are the answer part without its boxes; `reward.naming` decides which option they
  name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from reward.naming import ALPHABET, mentions, named_letter, words

LETTERS = tuple(ALPHABET)
OPTIONS = 4
"""The number of options of a question whose options are not given."""
GATES = ("off", "contradiction", "naming")
READINGS = 4096  # of the latest completions are kept

_OPEN, _CLOSE = "<think>", "</think>"
_TAG = re.compile(f"({_OPEN}|{_CLOSE})")
# A visible letter or digit: punctuation, zero-width characters and blank Hangul fillers are not words.
_WORD = re.compile(r"[^\W_\u115f\u1160\u3164\uffa0]")
_BOX_FORMS = ("{%s}", "{(%s)}", r"{\text{%s}}", r"{\text{(%s)}}", r"{(\text{%s})}")
_STYLE = re.compile(r"\\(?:textbf|textit|textrm|text|mathbf|mathrm|mathit|bf|rm|it|displaystyle)\b|[{}$*\s]")


class _Forms(NamedTuple):
    """How boxes name one of the first letters: the letter of each strict box, and patterns."""

    letter_of_box: Mapping[str, str]
    lone_letter: re.Pattern[str]
    lenient: re.Pattern[str]
    bare_box: re.Pattern[str]


@lru_cache(maxsize=len(LETTERS))
def _forms(count: int) -> _Forms:
    letters = "".join(LETTERS[:count])
    either = letters + letters.upper()
    return _Forms(
        {form % shown: x for form in _BOX_FORMS for x in letters for shown in (x, x.upper())},
        re.compile(rf"(?<![a-zA-Z])[{either}](?![a-zA-Z])"),
        re.compile(rf"\(?([{letters}])(?:\)|[.,:;]|$)", re.IGNORECASE),
        re.compile(rf"\s*\(?([{either}])\)?(?![a-zA-Z])"),
    )


@dataclass(frozen=True)
class Reading:
    """A parsed completion to a multiple-choice question.

    Attributes:
        letter: the letter in the box, read strictly (None: unreadable).
        lenient: same, but box formats of other models count as well.
        answer_names: letter of the one option that the words of the answer name, without the box (None: none
            or several).
        answer_quotes: same, only if the answer names the option by its words and not just by its letter.
        answer_denies: letters of the options that the answer denies and never names ("not tea").
        thought_names: letter of the one option that the words of the thought name (None: none or several).
        thought_letter: the one letter in parentheses in the thought.
        mislabels: whether a sentence of the answer or thought has the words of one option and the letter of
            another.
        thought_words: number of words in the thought.
        thought_vocabulary: number of different words in the thought, without single Latin letters.
        reasons: whether the completion passes the format gate.
        answer: the words of the answer.
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

    def right(self, gold: str | None) -> bool:
        """Returns whether the box names the gold letter; the words do not matter."""
        return self.letter == gold

    @property
    def consistent(self) -> bool:
        """Whether the box names a letter and the words agree with it.

        They disagree if the answer or the thought names another option or gives an option the letter of
        another, or if the answer denies the option of the box.
        """
        if self.letter is None or self.mislabels or self.letter in self.answer_denies:
            return False
        return {self.answer_names, self.thought_names} <= {None, self.letter}


def read(completion: Any, options: Sequence[str] | None = None) -> Reading:
    """Parses `completion` (a string or list of messages). Without `options`, there are four, and only letters
    in parentheses name an option. The same completion is parsed once, for rewards and metrics alike."""
    return _read(_text(completion) or "", None if options is None else tuple(options))


@lru_cache(maxsize=READINGS)
def _read(completion: str, options: tuple[str, ...] | None) -> Reading:
    thought, answer = _thought_and_answer(completion)
    shown = options or ("",) * OPTIONS
    answer_text = without_boxes(answer, len(shown))
    in_answer, in_thought = mentions(answer_text, shown), mentions(thought, shown)
    thought_words = words(thought)
    return Reading(
        letter=mcq_letter(completion, len(shown)),
        lenient=lenient_letter(completion, len(shown)),
        answer_names=in_answer.option,
        answer_quotes=in_answer.quoted,
        answer_denies=in_answer.denied,
        thought_names=in_thought.option,
        thought_letter=named_letter(thought, len(shown)),
        mislabels=in_answer.mislabels or in_thought.mislabels,
        thought_words=len(thought_words),
        thought_vocabulary=len({word for word in thought_words if len(word) > 1 or not word.isascii()}),
        reasons=has_reasoning(completion),
        answer=" ".join(answer_text.split()),
    )


def mcq_letter(completion: Any, count: int = OPTIONS) -> str | None:
    r"""Returns the letter in the box of the answer part of `completion`, one of the first `count`, or None.

    This reads only the answer; `has_reasoning` is the gate. A text without think tags is all answer, so that
    models that do not think can be measured too.
    """
    answer = answer_part(completion)
    boxes = [_box(piece) for piece in answer.split(r"\boxed")[1:]]
    closed = [box for box in boxes if box is not None]
    if not boxes or len(closed) < len(boxes):
        return None
    forms = _forms(count)
    letters = {forms.letter_of_box.get("".join(box.split())) for box in closed} - {None}
    named = {lone.lower() for box in closed for lone in forms.lone_letter.findall(box)}
    return letters.pop() if len(letters) == 1 and named == letters else None


def lenient_letter(completion: Any, count: int = OPTIONS) -> str | None:
    r"""Returns the letter in the box of the answer part; box formats of other models count as well.

    These are \boxed{B.}, \boxed{\textbf{b}}, \boxed b and \boxed{(b) text}. Two different letters give None.
    For evaluation only: the reward is strict.
    """
    if strict := mcq_letter(completion, count):
        return strict
    letters, forms = set(), _forms(count)
    for piece in answer_part(completion).split(r"\boxed")[1:]:
        box = _box(piece)
        if box is None:
            return None
        bare = forms.lenient.match(_STYLE.sub("", box)) if box else forms.bare_box.match(piece)
        if bare:
            letters.add(bare[1].lower())
    return letters.pop() if len(letters) == 1 else None


def without_boxes(answer: str, count: int = OPTIONS) -> str:
    r"""Returns an answer part without the boxes that name a letter and without unclosed boxes.

    A box ends a sentence. The content of other boxes is kept.
    """
    first, *pieces = answer.split(r"\boxed")
    kept, forms = [first], _forms(count)
    for piece in pieces:
        box = _box(piece)
        if box is not None:
            names = "".join(box.split()) in forms.letter_of_box
            kept.append(piece.lstrip()[len(box) * names :] if box else forms.bare_box.sub("", piece, count=1))
    return "\n".join(kept).replace("$", " ")


def answer_part(completion: Any) -> str:
    """Returns the text of `completion` after its last think block; "" if a block is still open."""
    return _thought_and_answer(_text(completion) or "")[1]


def has_reasoning(completion: Any) -> bool:
    """Returns whether `completion` passes the format gate: words inside closed think tags, and words in the
    answer part."""
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
    """Scores each completion: 1.0 if it passes the gates and names the gold letter, otherwise 0.0.

    Args:
        completions: N completions, each a string or a list of messages; the last message is scored.
        answer: N gold letters in any case, also as "(b)" or "b." (None: an open-ended question).
        options: N lists of options, for the letters and the consistency gate (None: four options).
        consistency_gate: "off": only the box counts. "contradiction": score 0 if the words of the answer or
            of the thought name one option and the box another, if the answer denies the option of the box, or
            if a sentence has the words of one option and the letter of another. "naming": also score 0 if the
            words of the answer do not name the option of the box (its letter alone is not enough); for
            options short enough that an answer repeats them.
        min_thought_words: score 0 if the thought has fewer different words; from 2 on, single letters are not
            words.
        finished: whether each completion ended by itself. With a consistency gate, a completion that was cut
            off scores 0, because the rest of its text is unknown.
        columns: all other columns from the trainer; ignored.

    Returns:
        N rewards; None for a row without a gold letter (an open-ended question) or without text.

    Raises:
        ValueError: `completions`, `answer` and `options` differ in length, a gold is not a letter, or the
            gate has no options.
    """
    if len(completions) != len(answer):
        raise ValueError(
            f"reward.personamem: {len(completions)} completions but {len(answer)} answers; "
            "pass one gold letter per completion"
        )
    if consistency_gate not in GATES:
        raise ValueError(
            f"reward.personamem: consistency_gate {consistency_gate!r}: expected one of {', '.join(GATES)}"
        )
    if consistency_gate != "off" and options is None:
        raise ValueError(
            "reward.personamem: the consistency gate compares words with options; pass the column `options`"
        )
    shown = options if options is not None else [None] * len(completions)
    if len(shown) != len(completions):
        raise ValueError(
            f"reward.personamem: {len(completions)} completions but {len(shown)} lists of options; pass one"
            " per completion"
        )
    scores = [
        _reward(completion, gold, of_row, consistency_gate, min_thought_words)
        for completion, gold, of_row in zip(completions, answer, shown, strict=True)
    ]
    if finished is None or consistency_gate == "off":
        return scores
    return [score and score * ended for score, ended in zip(scores, finished, strict=True)]


def paper(completions: Sequence[Any], answer: Sequence[str | None], **columns: Any) -> list[float | None]:
    """The reward of the paper: `personamem` without the consistency gate and without a minimum number of
    words."""
    return personamem(completions, answer)


def gold_letter(gold: Any, count: int = OPTIONS) -> str | None:
    """Normalizes a gold letter such as "B", "(b)" or " b. " to one of the first `count`; None stays None.

    Raises:
        ValueError: for anything else, since no completion could ever match it and nobody would notice.
    """
    if gold is None:
        return None
    letter = gold.strip().strip("().").strip().lower() if isinstance(gold, str) else ""
    if letter not in LETTERS[:count]:
        raise ValueError(
            f"reward.personamem: the gold {gold!r} is not a letter; use one of {', '.join(LETTERS[:count])},"
            " or None for an open-ended question"
        )
    return letter


def _reward(
    completion: Any, answer: str | None, options: Sequence[str] | None, gate: str, floor: int
) -> float | None:
    count = len(options) if options else OPTIONS
    gold = gold_letter(answer, count)
    if gold is None or _text(completion) is None:
        return None
    if mcq_letter(completion, count) != gold or not has_reasoning(completion):
        return 0.0
    if floor == 1 and gate == "off":
        return 1.0
    reading = read(completion, options)
    agrees = gate == "off" or (reading.consistent and (gate != "naming" or reading.answer_quotes == gold))
    return float(agrees and reading.thought_vocabulary >= floor)


def _text(completion: Any) -> str | None:
    """Returns the text of a completion with think tags; None if it is neither a string nor a list of
    messages.

    A message may contain its reasoning separately in `reasoning_content`, as parsers of chat responses do. It
    is put back in front of a closing tag, as in a completion whose think block was opened in the prompt.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, Sequence) or not all(isinstance(turn, Mapping) for turn in completion):
        return None
    message = completion[-1] if completion else {}
    if message.get("role", "assistant") != "assistant":
        return ""  # the last message is from a tool, not from the model
    content, reasoning = message.get("content") or "", message.get("reasoning_content") or ""
    if not isinstance(content, str) or not isinstance(reasoning, str):
        return None
    return f"{reasoning}{_CLOSE}{content}" if reasoning else content


def _thought_and_answer(text: str) -> tuple[str, str]:
    """Returns the text inside think blocks, and the text after the last one ("" if a block is still open)."""
    parts = _TAG.split(text)  # text, tag, text, tag, ..., text
    depth = 1 if len(parts) > 1 and parts[1] == _CLOSE else 0
    thought = []
    for piece, tag in zip(parts[::2], parts[1::2], strict=False):
        if depth:
            thought.append(piece)
        depth = depth + 1 if tag == _OPEN else max(depth - 1, 0)
    return " ".join(thought), "" if depth else parts[-1]


def _box(piece: str) -> str | None:
    r"""Returns the braces right after a \boxed with their content; None if they never close, "" if there are
    none."""
    piece = piece.lstrip()
    depth = 0
    for i, char in enumerate(piece):
        depth += (char == "{") - (char == "}")
        if depth <= 0:
            return piece[: i + 1] if i else ""
    return None
