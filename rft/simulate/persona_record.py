"""Everything written about one persona, by whichever writer: the person, the preferences, the conversations, the questions.

A dossier says nothing about windows or files. It turns into plain JSON and back without loss, and that JSON is the persona's file
under `data/raw_data`.
"""

from dataclasses import dataclass
from typing import Any

KINDS = ("own", "open", "untold", "update", "ended", "renewed", "forget", "beside", "others", "leaked", "cleared", "declined")
USED_KINDS = ("own", "update", "renewed", "beside", "cleared")  # a value holds, and the gold uses it
SENSITIVE_KINDS = ("leaked", "cleared", "declined")
SCENARIOS = ("personal_email", "professional_email", "creative_writing", "professional_writing", "chat_message", "translation",
             "trouble_consult", "social_media_post", "knowledge_query")
LISTS = ("preferences", "conversations", "items")  # of a dossier
Message = dict[str, str]


@dataclass(frozen=True)
class Persona:
    """`about` is what the system message tells, in order; `archetype` is the offline writer's mark, "" where there is none."""

    id: int
    about: dict[str, Any]
    archetype: str = ""

    @property
    def short(self) -> str:
        return str(self.about["short_persona"])


@dataclass(frozen=True)
class Preference:
    """What the history reveals and a question is about.

    text: what holds at the end, as the dataset's `preference` column has it, or the wish to forget, or what somebody else holds;
    empty where there is nothing; previous: what must not be used beside it: what held before, or is somebody else's;
    keyword: the words by which it is told from others of its topic, checked for in gold, distractors and conversation.
    """

    topic: str
    text: str
    pref_type: str
    kind: str
    keyword: str
    previous: str = ""

    @property
    def who(self) -> str:
        return "others" if self.kind in ("others", "beside") else "self"

    @property
    def updated(self) -> bool:
        return self.kind in ("update", "ended", "renewed", "forget")


@dataclass(frozen=True)
class Conversation:
    """One block of a history. `about` is the index of its preference; `evidence`: it is what a question rests on.

    scenario: of a request to forget, that in which was said what is to be forgotten, as in the released data.
    place: "first" is put anywhere, "later" anywhere behind the first ones about the same preference.
    """

    messages: list[Message]
    scenario: str
    about: int
    evidence: bool = True
    place: str = "first"


@dataclass(frozen=True)
class QuestionItem:
    """One question. `about` is the index of its preference."""

    about: int
    query: str
    gold: str
    distractors: list[str]


@dataclass(frozen=True)
class PersonaRecord:
    persona: Persona
    preferences: list[Preference]
    conversations: list[Conversation]
    items: list[QuestionItem]
    rejected: dict[str, int]  # reason -> how many questions were thrown away for it
    usage: dict[str, float]  # calls, tokens and cost, of writers that pay

    def to_json(self) -> dict[str, Any]:
        return {"persona": vars(self.persona), **{name: [vars(entry) for entry in getattr(self, name)] for name in LISTS},
                "rejected": self.rejected, "usage": self.usage}


def record_from_json(document: dict[str, Any]) -> PersonaRecord:
    return PersonaRecord(
        Persona(**document["persona"]),
        [Preference(**entry) for entry in document["preferences"]],
        [Conversation(**entry) for entry in document["conversations"]],
        [QuestionItem(**entry) for entry in document["items"]],
        document["rejected"],
        document["usage"],
    )


def chat(*texts: str) -> list[Message]:
    """Messages of alternating roles, the user's first."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
