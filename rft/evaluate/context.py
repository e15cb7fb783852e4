"""What a model gets to read before a question.

Invariant: a context makes the whole conversation from one question and its history, and from nothing else of the
dataset. Whatever its messages depend on stands in its `settings`.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from rft.data import prompt
from rft.data.history import History
from rft.data.question import Question

CONTEXTS = (*prompt.CONTEXTS, "retrieval", "memory")


class Context(Protocol):
    """name: as in `--context`. settings: JSON values that its messages depend on."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def messages(self, question: Question, history: History | None) -> list[dict[str, str]]:
        """The conversation the model continues; its last message is the question's."""
        ...

    def read(self, question: Question, history: History | None) -> str:
        """For people: what of the history `messages` shows, in few words; "" where the name says it."""
        ...


@dataclass(frozen=True)
class FullHistoryContext:
    """The whole history, with or without the persona message, or nothing of it: the layouts of `rft.data.prompt`."""

    name: str = "history"
    settings: dict[str, Any] = field(default_factory=dict)

    def messages(self, question: Question, history: History | None) -> list[dict[str, str]]:
        return prompt.messages(question, history, self.name)

    def read(self, question: Question, history: History | None) -> str:
        return ""
