r"""Which option do the words of a text name?

Invariant: one definition for the reward's consistency gate, every metric and every report. A text names an option if it holds the
option's words in their order, as whole words, in a sentence that denies nothing. What is ambiguous names nothing: a text that
quotes several options, or options that are equal.

How a text is compared:
- Case, punctuation, white space, width and invisible characters make no difference.
- An option inside of another one ("tea" in "green tea") is named only where the longer one is not.
- Scripts that are written without spaces (Chinese, Japanese, Thai, ...) are compared without regard to word ends.
- A sentence with a negation (`DENIALS`) is passed over: "not jazz" and "asked to forget jazz" do not choose jazz.
- If the words name no single option, a letter in parentheses, such as "(b)", does, if it is the only one.
"""

import re
import unicodedata
from collections.abc import Sequence

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DENIALS = frozenset(
    "not no never nor neither without forget forgets forgot forgotten avoid instead rather except unlike anymore cannot "
    "withdrew withdrawn stopped quit".split()
)
_DENIED = re.compile(r"n['’]t\b|\b(?:gave|given|giving) up\b|\bno longer\b|\bdone with\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?。！？;\n])\s*")
_LETTER = re.compile(r"\(([a-zA-Z])\)")
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")


def named_option(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that `text` names ("a" for the first); None if it names none, or several.

    Args:
        text: what a completion says, boxes left out (`reward.mcq.read` hands over the thought and the answer).
        options: N options, in the order of their letters.
    """
    sentences = [sentence for sentence in _SENTENCE.split(text) if not _denies(sentence)]
    named = set().union(*(_named(_plain(sentence), options) for sentence in sentences)) if sentences else set()
    if len(named) == 1:
        return named.pop()
    return named_letter(" ".join(sentences), len(options))


def named_letter(text: str, count: int = 4) -> str | None:
    """The one letter of the first `count` that stands in parentheses, such as "(b)"; None if none does, or several do."""
    letters = {letter.lower() for letter in _LETTER.findall(text)} & set(LETTERS[:count])
    return letters.pop() if len(letters) == 1 else None


def words(text: str) -> list[str]:
    """The words of a text, folded; of a script without spaces each character."""
    return [piece for word in _plain(text).split() for piece in (word if _unspaced(word[0]) else (word,))]


def _named(plain: str, options: Sequence[str]) -> set[str]:
    """The letters whose options stand in a folded text, those inside of a longer one's place left out."""
    spans: list[tuple[int, int, str]] = []
    for letter, option in zip(LETTERS, options, strict=False):
        wanted = _plain(option)
        start = plain.find(wanted) if wanted else -1
        while start >= 0:
            stop = start + len(wanted)
            if _ends(plain, start - 1, start) and _ends(plain, stop - 1, stop):
                spans.append((start, stop, letter))
            start = plain.find(wanted, start + 1)
    return {
        letter
        for start, stop, letter in spans
        if not any(a <= start and stop <= b and b - a > stop - start for a, b, _ in spans)
    }


def _ends(plain: str, before: int, after: int) -> bool:
    """Whether a word ends between two neighbouring characters of a folded text."""
    if before < 0 or after >= len(plain):
        return True
    return " " in (plain[before], plain[after]) or _unspaced(plain[before]) or _unspaced(plain[after])


def _unspaced(character: str) -> bool:
    return ord(character) > 0xDFF and unicodedata.name(character, "").startswith(_UNSPACED)


def _denies(sentence: str) -> bool:
    return bool(_DENIED.search(sentence)) or not DENIALS.isdisjoint(_plain(sentence).split())


def _plain(text: str) -> str:
    """Words separated by single spaces: compatibility forms unified, case folded, all else but letters and digits left out."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return " ".join(re.sub(r"[^\w]|_", " ", text).split())
