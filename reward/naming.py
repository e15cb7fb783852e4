r"""Finds the option that the words of a text name.

Invariant: the reward's consistency gate, every metric and every report use this one definition. A text names
an option if it contains the option's words in their order, as whole words, and does not deny it. An ambiguous
text names nothing: one that names several options, or options that are equal. Every step takes time linear in
the length of the text, for any text.

How a text is compared:
- Case, punctuation, white space, character width and invisible characters make no difference.
- An option inside another one ("tea" in "green tea") is named only in places where the longer one is not.
- Scripts that are written without spaces (Chinese, Japanese, Thai, ...) are compared without regard to word
  boundaries.
- A sentence that ends in the middle of an option names it if it contains at least half of the option and at
  least two words, and no other option begins the same way: "Something quite" for "Something quite new".
- A denial (`DENIALS`) applies to the options after it in its clause; otherwise to those before it in its
  clause; otherwise to those of the nearest clause before it in its sentence: "not jazz", "jazz is not for
  you", "jazz, forget it". Words inside an option are never denials.
- If the words name no single option, a letter in parentheses, such as "(b)", does, if it is the only one.
"""

import re
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
DENIALS = (
    "not",
    "no",
    "never",
    "nor",
    "neither",
    "without",
    "forget",
    "forgets",
    "forgot",
    "forgotten",
    "avoid",
    "instead of",
    "rather than",
    "except",
    "unlike",
    "anymore",
    "cannot",
    "withdrew",
    "withdrawn",
    "stopped",
    "quit",
    "gave up",
    "given up",
    "giving up",
    "done with",
    r"\w+n t",
)
_DENIAL = re.compile(rf"\b(?:{'|'.join(DENIALS)})\b")
_ASSENT = re.compile(
    r"\b(?:no doubt|without (?:a )?doubt|why not|not only|no wonder|(?:\w+n t|not|never) forget)\b"
)
_SENTENCE_END, _CLAUSE_END = ".!?。؟।;\n", ",:、—–"
_SPACED = str.maketrans(dict.fromkeys(_SENTENCE_END + _CLAUSE_END, " "))
_LETTER = re.compile(r"\(([a-zA-Z])\)")
# marks a letter in parentheses in a folded text; a private-use character, removed from every input
_MARK = "\ue000"
_MARKED = re.compile(rf"{_MARK}([a-z])\b")
_BLANK_FILLERS = "\u115f\u1160\u3164\uffa0"
_MOST_ACCENTS = 4  # per character; more are decoration, and slow to normalize
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")


@dataclass(frozen=True)
class Mentions:
    """The letters of the options that a text mentions.

    Attributes:
        words: options whose words the text contains, without denied ones.
        letters: options whose letter the text contains in parentheses, without denied ones.
        denied: options that are denied in their own clause and named nowhere.
        mislabels: whether a sentence has the words of exactly one option and the letter of exactly one other.
    """

    words: frozenset[str]
    letters: frozenset[str]
    denied: frozenset[str]
    mislabels: bool

    @property
    def quoted(self) -> str | None:
        """The letter of the one option that is named by its words (None: none or several)."""
        return next(iter(self.words)) if len(self.words) == 1 else None

    @property
    def option(self) -> str | None:
        """The letter of the one option that is named, by its words or otherwise by its letter (None: none or
        several)."""
        return self.quoted or (next(iter(self.letters)) if len(self.letters) == 1 else None)


def named_letter(text: str, count: int = 4) -> str | None:
    """Returns the one letter in parentheses, such as "(b)", among the first `count`; None if there is none or
    several."""
    letters = {letter.lower() for letter in _LETTER.findall(text)} & set(ALPHABET[:count])
    return letters.pop() if len(letters) == 1 else None


def words(text: str) -> list[str]:
    """Returns the folded words of a text; in a script without spaces, every character is a word."""
    plain = _plain(_fold(text)).replace(_MARK, "")
    return [piece for word in plain.split() for piece in (word if _unspaced(word[0]) else (word,))]


def mentions(text: str, options: Sequence[str]) -> Mentions:
    """Finds the options that `text` mentions.

    Args:
        text: text of a completion without boxes (`reward.mcq.read` passes the thought and the answer).
        options: N options in the order of their letters; "" is never mentioned.
    """
    plain, clauses = _clauses(text)
    plain_options = [
        (letter, _plain(_fold(option))) for letter, option in zip(ALPHABET, options, strict=False)
    ]
    spans = _widest([*_whole(plain, plain_options), *_broken_off(plain, clauses, plain_options)])
    masked = _without(plain, spans)
    spans += [
        (m.start(), m.end(), m[1]) for m in _MARKED.finditer(masked) if m[1] in ALPHABET[: len(plain_options)]
    ]
    denied, doubted = _denied(masked, clauses, sorted(spans))
    named: dict[bool, set[str]] = {True: set(), False: set()}  # is a letter in parentheses -> letters
    beside: dict[tuple[int, bool], set[str]] = defaultdict(set)  # same, per sentence
    starts = [start for start, _, _ in clauses]
    for span in spans:
        if span not in denied and span not in doubted:
            start, stop, letter = span
            is_letter = plain[start] == _MARK
            named[is_letter].add(letter)
            beside[clauses[bisect_right(starts, stop - 1) - 1][2], is_letter].add(letter)
    return Mentions(
        words=frozenset(named[False]),
        letters=frozenset(named[True]),
        denied=frozenset({letter for _, _, letter in denied} - named[False] - named[True]),
        mislabels=any(
            len(by_words) == len(beside[sentence, True]) == 1 and by_words != beside[sentence, True]
            for (sentence, is_letter), by_words in list(beside.items())
            if not is_letter
        ),
    )


Span = tuple[int, int, str]  # start and stop in a plain text, letter of the option
Clause = tuple[int, int, int]  # start and stop in a plain text, number of the sentence


def _clauses(text: str) -> tuple[str, list[Clause]]:
    """Returns the words of a text with single spaces in between, and its clauses; clauses without words are
    left out."""
    pieces, clauses, start = [], [], 0
    for number, sentence in enumerate(re.split(f"[{re.escape(_SENTENCE_END)}]+", _fold(text))):
        for clause in re.split(rf"[{_CLAUSE_END}]+|\s(?=(?:but|so)\s)", sentence):
            if plain := _plain(clause):
                pieces.append(plain)
                clauses.append((start, start + len(plain), number))
                start += len(plain) + 1
    return " ".join(pieces), clauses


def _whole(plain: str, plain_options: Sequence[tuple[str, str]]) -> Iterator[Span]:
    """Yields the places where all words of an option occur."""
    for letter, option in plain_options:
        start = plain.find(option) if option else -1
        while start >= 0:
            stop = start + len(option)
            if _ends(plain, start) and _ends(plain, stop):
                yield start, stop, letter
            start = plain.find(option, start + 1)


def _broken_off(
    plain: str, clauses: Sequence[Clause], plain_options: Sequence[tuple[str, str]]
) -> Iterator[Span]:
    """Yields the places where a sentence ends with the beginning of one option."""
    beginnings = defaultdict(set)
    for letter, option in plain_options:
        pieces = option.split()
        for count in range(max(2, (len(pieces) + 1) // 2), len(pieces)):
            beginnings[" ".join(pieces[:count])].add(letter)
    by_last_word = defaultdict(list)
    for beginning, letters in beginnings.items():
        others = [option for letter, option in plain_options if letter not in letters]
        if len(letters) == 1 and not any(option.startswith(beginning) for option in others):
            by_last_word[beginning.rpartition(" ")[2]].append((beginning, min(letters)))
    for number, (start, stop, sentence) in enumerate(clauses, start=1):
        if number == len(clauses) or clauses[number][2] != sentence:
            for beginning, letter in by_last_word.get(plain[start:stop].rpartition(" ")[2], ()):
                begin = stop - len(beginning)
                if begin >= 0 and plain.startswith(beginning, begin) and _ends(plain, begin):
                    yield begin, stop, letter


def _widest(spans: Sequence[Span]) -> list[Span]:
    """Returns the spans that are not inside a longer one."""
    kept: list[Span] = []
    reach = (-1, -1)  # the span that ends last so far
    for start, stop, letter in sorted(spans, key=lambda span: (span[0], -span[1])):
        if stop > reach[1] or (start, stop) == reach:
            kept.append((start, stop, letter))
            reach = (start, stop)
    return kept


def _without(plain: str, spans: Sequence[Span]) -> str:
    """Replaces the (sorted) spans of the text by blanks."""
    pieces, end = [], 0
    for start, stop, _ in spans:
        if stop > end:
            pieces += [plain[end:start], " " * (stop - max(start, end))]
            end = stop
    return "".join(pieces) + plain[end:]


def _denied(masked: str, clauses: Sequence[Clause], spans: Sequence[Span]) -> tuple[set[Span], set[Span]]:
    """Returns the (sorted) spans that are denied in their own clause, and those that a later clause
    denies."""
    starts = [start for start, _, _ in clauses]
    beginning, ending, denials = defaultdict(list), defaultdict(list), defaultdict(list)  # by clause
    for span in spans:
        beginning[bisect_right(starts, span[0]) - 1].append(span)
        ending[bisect_right(starts, span[1] - 1) - 1].append(span)
    for match in _DENIAL.finditer(_ASSENT.sub(lambda assent: " " * len(assent[0]), masked)):
        denials[bisect_right(starts, match.start()) - 1].append(match.start())
    denied: set[Span] = set()
    doubted: set[Span] = set()
    last: list[Span] = []  # spans of the last clause of this sentence that has any
    for number, (_, _, sentence) in enumerate(clauses):
        if number and clauses[number - 1][2] != sentence:
            last = []
        if denial_starts := denials[number]:
            behind = [span for span in beginning[number] if span[0] > denial_starts[0]]
            before = [span for span in ending[number] if span[1] <= denial_starts[-1]]
            denied.update(behind)
            if not behind or behind[-1][0] < denial_starts[-1]:
                denied.update(before)
            if not behind and not before:
                doubted.update(last)
        last = ending[number] or last
    return denied, doubted


def _ends(plain: str, place: int) -> bool:
    """Returns whether no word of a plain text goes across `place`."""
    around = plain[place - 1 : place + 1]
    return not 0 < place < len(plain) or " " in around or any(map(_unspaced, around))


def _unspaced(character: str) -> bool:
    return ord(character) > 0xDFF and unicodedata.name(character, "").startswith(_UNSPACED)


@lru_cache(maxsize=64)  # all completions of a question share its options, and a thought is read twice
def _fold(text: str) -> str:
    """Unifies compatibility forms, folds case, and replaces everything except words and ends of clauses by a
    space."""
    accents = 0
    kept = []
    for character in text:
        accents = accents + 1 if unicodedata.category(character)[0] == "M" else 0
        if accents <= _MOST_ACCENTS:
            kept.append(character)
    folded = unicodedata.normalize("NFKC", "".join(kept)).casefold().replace(_MARK, " ")
    return _LETTER.sub(rf" {_MARK}\1 ", folded).translate(_KEPT)


class _Kept(dict[int, str | None]):
    """Cached replacement of each character of a folded text (None: the character is removed)."""

    def __missing__(self, code: int) -> str | None:
        character, category = chr(code), unicodedata.category(chr(code))
        # last: variation selectors
        if category == "Cf" or character in _BLANK_FILLERS or "\ufe00" <= character <= "\ufe0f":
            self[code] = None
        else:  # remaining marks ("M") are accents and vowel signs, which belong to a word
            is_kept = (
                character.isalnum() or category[0] == "M" or character in _MARK + _SENTENCE_END + _CLAUSE_END
            )
            self[code] = character if is_kept else " "
        return self[code]


_KEPT = _Kept()


def _plain(folded: str) -> str:
    """Returns the words of a folded text with single spaces in between."""
    return " ".join(folded.translate(_SPACED).split())
