"""The preferences of a history, put together from its findings.

Invariant: a preference has one topic of one person, and its state is what the last message about it says; its
evidence is every message about it. The same findings in the same order give the same preferences.
"""

from dataclasses import dataclass, field

from rft.data.faults import fold
from rft.tasks.questions.findings import Finding

PLAIN, CHANGED, WITHDRAWN, OTHERS = "plain", "changed", "withdrawn", "others"
FIRST = {"revealed": PLAIN, "updated": CHANGED, "withdrawn": WITHDRAWN, "others": OTHERS}
"""What the first finding on a topic makes."""


@dataclass
class Preference:
    """A preference that the history shows.

    Attributes:
        kind: PLAIN, CHANGED, WITHDRAWN or OTHERS, at the end of the history.
        topic: a word or two.
        text: the preference that holds; if withdrawn, the one that was withdrawn.
        keyword: words of `text` that tell it from others.
        before: the preference that it replaced ("": none is known).
        quotes: {index of a message: the words that show it}.
    """

    kind: str
    topic: str
    text: str
    keyword: str
    before: str = ""
    quotes: dict[int, str] = field(default_factory=dict)

    @property
    def used(self) -> bool:
        """Whether a right answer uses it."""
        return self.kind in (PLAIN, CHANGED)

    @property
    def evidence(self) -> list[int]:
        """The indices of the messages about it, in order."""
        return sorted(self.quotes)


class Preferences:
    """Collects findings in the order of their messages."""

    def __init__(self) -> None:
        self._by_topic: dict[tuple[bool, str], Preference] = {}

    @property
    def all(self) -> list[Preference]:
        """The preferences in the order of their first messages."""
        return sorted(self._by_topic.values(), key=lambda p: (p.evidence[0], p.topic))

    def known(self) -> list[dict[str, str]]:
        """What the LLM is told about the parts that it has read."""
        return [{"topic": p.topic, "kind": p.kind, "statement": p.text} for p in self._by_topic.values()]

    def add(self, finding: Finding) -> str:
        """Adds a finding. Returns "", or why it tells nothing new; it is evidence all the same."""
        others = finding.kind == "others"
        key = (others, fold(finding.topic))
        text, keyword = finding.statement.strip(), finding.keyword.strip()
        known = self._by_topic.get(key)
        if known is None:
            known = Preference(FIRST[finding.kind], finding.topic.strip(), text, keyword)
            self._by_topic[key], why = known, ""
        elif finding.kind == "withdrawn":
            why = "it was withdrawn before" if known.kind == WITHDRAWN else ""
            known.kind, known.before = WITHDRAWN, ""
        elif finding.kind == "updated" or known.kind == WITHDRAWN:
            why = ""
            known.kind, known.before = CHANGED, known.text
            known.text, known.keyword = text, keyword
        else:
            same = fold(known.keyword) == fold(finding.keyword)
            why = "it is more evidence for one found before" if same else "another preference has this topic"
        known.quotes.setdefault(finding.message, finding.quote)
        return why

    def drop_unclear(self) -> list[Preference]:
        """Removes somebody else's preferences on topics on which the user has one too, and returns them: a
        right answer could not be told from a use of the other."""
        own = {topic for others, topic in self._by_topic if not others}
        unclear = [p for (others, topic), p in self._by_topic.items() if others and topic in own]
        for preference in unclear:
            del self._by_topic[True, fold(preference.topic)]
        return unclear
