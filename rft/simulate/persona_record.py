"""Persona record: everything a writer generates for one persona, that is person, preferences, conversations
and questions.

Invariant: a record is independent of windows and files, and its `asdict` is plain JSON. This JSON is the
persona's file under `data/raw_data`.
"""

from dataclasses import dataclass
from typing import Any

USED_KINDS = ("own", "update", "renewed", "beside", "cleared")  # a value holds, and the gold uses it
SENSITIVE_KINDS = ("leaked", "cleared", "declined")
SCENARIOS = (
    "personal_email",
    "professional_email",
    "creative_writing",
    "professional_writing",
    "chat_message",
    "translation",
    "trouble_consult",
    "social_media_post",
    "knowledge_query",
)
Message = dict[str, str]


@dataclass(frozen=True)
class Persona:
    """`about`: content of the system message, in order. `archetype`: mark used by the offline writer, "" if
    there is none."""

    id: int
    about: dict[str, Any]
    archetype: str = ""

    @property
    def short(self) -> str:
        """One-line description."""
        description = self.about.get("short_persona")
        return str(description or f"A {self.about['occupation']} aged {self.about['age']}")


@dataclass(frozen=True)
class Preference:
    """A preference that the history reveals and a question asks about.

    Attributes:
        topic: name of the topic.
        text: the column `preference`: the preference that holds at the end, the request to forget, or
            somebody else's preference (empty: none).
        pref_type: the column `pref_type`.
        kind: one of those of `rft.simulate.facts.Fact` or of `SENSITIVE_KINDS`.
        keyword: words that distinguish it from others of its topic; searched for in gold, distractors and
            conversations.
        previous: the column `prev_pref`: a preference that must not be used: outdated, withdrawn or somebody
            else's (empty: none).
    """

    topic: str
    text: str
    pref_type: str
    kind: str
    keyword: str
    previous: str = ""

    @property
    def who(self) -> str:
        """The column `who`."""
        return "others" if self.kind in ("others", "beside") else "self"

    @property
    def updated(self) -> bool:
        """The column `updated`."""
        return self.kind in ("update", "ended", "renewed", "forget")


@dataclass(frozen=True)
class Conversation:
    """One conversation of a history.

    Attributes:
        messages: messages of alternating roles, the user's first.
        scenario: one of `SCENARIOS`; a request to forget has the scenario that revealed the preference, as in
            the released data.
        about: index of its preference (None: filler).
        evidence: whether a question depends on it.
        place: "first" may be anywhere, "later" anywhere after the "first" ones about the same preference; the
            name of a window: only there.
    """

    messages: list[Message]
    scenario: str
    about: int | None
    evidence: bool = True
    place: str = "first"


@dataclass(frozen=True)
class QuestionItem:
    """One question. `about`: index of its preference."""

    about: int
    query: str
    gold: str
    distractors: list[str]


@dataclass(frozen=True)
class PersonaRecord:
    """Everything generated for one persona."""

    persona: Persona
    preferences: list[Preference]
    conversations: list[Conversation]
    items: list[QuestionItem]
    rejected: dict[str, int]  # reason -> number of questions rejected for it
    usage: dict[str, float]  # calls, tokens and cost, for writers that use an LLM


def chat(*texts: str) -> list[Message]:
    """Returns messages of alternating roles, the user's first."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
