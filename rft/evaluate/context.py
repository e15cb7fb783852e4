"""Contexts: the messages that a model reads, including the question.

Invariant: a context builds the conversation from one question and its history only. Its `settings` contain
everything else that its messages depend on.
"""

from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

from rft.data import prompt
from rft.data.history import History
from rft.data.question import Question

CONTEXTS = (*prompt.CONTEXTS, "retrieval", "memory")


class Context(Protocol):
    """Builds the conversation for a question.

    Attributes:
        name: as in `--context`.
        settings: JSON values that its messages depend on.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> dict[str, JsonValue]: ...

    def messages(self, question: Question, history: History | None) -> list[dict[str, str]]:
        """The conversation that the model continues; its last message contains the question."""
        ...

    def read(self, question: Question, history: History | None) -> str:
        """A short summary for people of what `messages` shows of the history; "" if the name says it."""
        ...


@dataclass(frozen=True)
class FullHistoryContext:
    """The layouts of `rft.data.prompt`: the whole history, with or without the persona message, or no
    history."""

    name: str = "history"
    settings: dict[str, JsonValue] = field(default_factory=dict)

    def messages(self, question: Question, history: History | None) -> list[dict[str, str]]:
        """The conversation in the layout `name`."""
        return prompt.messages(question, history, self.name)

    def read(self, question: Question, history: History | None) -> str:
        """Always "": the name says what is shown."""
        return ""
