"""Topics of preferences and their values, from the list in the package or from a custom file.

Invariant: the values of a topic are interchangeable. Each fits `doing` and answers `ask`, and `ask` names
none, so a question can offer three of them and only the history shows which one is correct. A mark names the
archetype that a value is typical of.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

from rft.errors import DataError

SECTIONS = ("general", "therapy", "health")
# archetypes, see people.yaml
OPPOSITE = {"O": "H", "H": "O", "T": "C", "C": "T", "A": "S", "S": "A", "L": "F", "F": "L"}
LINE = "name | what one does, {} for the value | what a question asks for | value, value, value"
LEAST_VALUES = 4
COMMON = set(
    "about after again along among around back best between class during early every first from friends games"
    " good great groups home house into kind late little local long made made making more morning music night"
    " old open over people place public quiet room short small some something street style that their this"
    " time under weekend when while with without work world year years young".split()
)


@dataclass(frozen=True)
class Topic:
    """One topic of preferences.

    Attributes:
        name: name of the topic.
        section: one of `SECTIONS`.
        doing: what a person does, with `{}` for the value.
        ask: what a question asks for; in the mini profile the whole query.
        values: the values of the topic.
        marks: {value: archetype that it is typical of}.
    """

    name: str
    section: str
    doing: str
    ask: str
    values: tuple[str, ...]
    marks: Mapping[str, str] = field(default_factory=dict, hash=False)

    def with_value(self, value: str) -> str:
        """`doing` with the value filled in."""
        return self.doing.format(value)

    def mark(self, value: str) -> str:
        """The archetype that a value is typical of, "" if there is none."""
        return self.marks.get(value, "")


def content_words(text: str) -> set[str]:
    """The content words of a text: at least four letters, without common words and without a final s."""
    words = re.findall(r"[^\W\d_]{4,}", text.casefold())
    return {word.removesuffix("s") for word in words} - COMMON


@cache
def shipped(name: str = "topics") -> tuple[Topic, ...]:
    """The topics of a list in the package: "topics" or "mini_topics"."""
    source = files("rft.simulate") / "words" / f"{name}.txt"
    return tuple(_parse(source.read_text(encoding="utf-8"), "the shipped topics"))


def read_topics(path: Path) -> tuple[Topic, ...]:
    """Reads topics from a file in the format of words/topics.txt.

    Raises:
        DataError: the file cannot be read or a line is invalid; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot read the topics: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; write the topics as UTF-8 text") from None
    topics = tuple(_parse(text, str(path)))
    if not topics:
        raise DataError(f"{path}: no topics; expected lines such as: {LINE}")
    return topics


def _parse(text: str, where: str) -> Iterator[Topic]:
    section, line_of = "general", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        line, here = line.strip(), f"{where}: line {number}"
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if not line.endswith("]"):
                raise DataError(f"{here}: expected a section as [name]; this one has no ]")
            name = line[1:-1].strip().lower()
            section = name if name in SECTIONS else "general"
            continue
        topic = _topic(line, section, here)
        if topic.name.casefold() in line_of:
            raise DataError(
                f"{here}: topic {topic.name!r} is already in line {line_of[topic.name.casefold()]}; remove"
                " one of them"
            )
        line_of[topic.name.casefold()] = number
        yield topic


def _topic(line: str, section: str, here: str) -> Topic:
    fields = [field.strip() for field in line.split("|")]
    if len(fields) != 4 or not all(fields):
        raise DataError(f"{here}: {len(fields)} fields; expected four, none empty: {LINE}")
    name, doing, ask, listed = fields
    if doing.count("{}") != 1 or re.search(r"[{}]", doing.replace("{}", "") + ask):
        raise DataError(
            f"{here}: {doing!r} must contain {{}} for the value exactly once, and no other braces"
        )
    values, marks = list[str](), dict[str, str]()
    for entry in listed.split(","):
        value, mark = map(str.strip, entry.rsplit(":", 1)) if ":" in entry else (entry.strip(), None)
        if not value:
            raise DataError(f"{here}: an empty value; separate values by single commas")
        if mark is not None and mark not in OPPOSITE:
            raise DataError(
                f"{here}: value {value!r} has the mark {mark!r}; expected one of {', '.join(OPPOSITE)}"
            )
        values.append(value)
        if mark is not None:
            marks[value] = mark
    if len(set(v.casefold() for v in values)) != len(values):
        raise DataError(f"{here}: a value is listed twice; the values of a topic must differ")
    if len(values) < LEAST_VALUES:
        raise DataError(f"{here}: {len(values)} values; expected at least {LEAST_VALUES}")
    for value in values:
        if re.search(rf"\b{re.escape(value.casefold())}\b", ask.casefold()):
            raise DataError(f"{here}: {ask!r} names the value {value!r}; ask without naming a value")
        inside = [
            v for v in values if v != value and re.search(rf"\b{re.escape(value.casefold())}\b", v.casefold())
        ]
        if inside:
            raise DataError(
                f"{here}: value {value!r} is part of {inside[0]!r}, which is ambiguous; rename one of them"
            )
    return Topic(name, section, doing, ask, tuple(values), marks)
