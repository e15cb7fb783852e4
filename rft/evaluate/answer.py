"""Answers, and the protocols of the answerers that give them.

Invariant: an answer depends only on the question, its history and the answerer's `settings`.
The settings are part of a run's identity: answers given under different settings are never mixed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from rft.data.history import History
from rft.data.question import Question

BATCH_SIZE = 32
"""Questions that a model on this machine answers at the same time, unless told otherwise."""
HISTORIES_AT_ONCE = 8
"""Histories whose memories it writes at the same time, unless told otherwise."""


@dataclass(frozen=True)
class Answer:
    """A completion as text without special tokens, and its cost.

    Attributes:
        completion: the text.
        input_tokens: tokens of the prompt; None if the server does not report them.
        output_tokens: tokens of the completion; None if the server does not report them.
        finished: False if the completion was cut off at the length limit.
        cached_tokens: input tokens that the server had in its prefix cache; None if it does not report them.
        cost: dollars.
        failures: calls that failed before this one, by kind.
        read: a summary for people of what the context showed the model, if that is not obvious.
        writing_tokens: tokens read to write the history's memory (the same number for all questions of the
            history).
        ending: why there is no answer (refusal, content_filter, tool_calls, empty); "" if there is one.
        adapted: changes made to the request because the server rejected its settings.
    """

    completion: str
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    finished: bool = True
    cached_tokens: int | None = 0
    cost: float = 0.0
    failures: Mapping[str, int] = field(default_factory=dict)
    read: str = ""
    writing_tokens: int = 0
    ending: str = ""
    adapted: Sequence[str] = ()


@dataclass(frozen=True)
class Unanswered:
    """Takes the place of an answer if every attempt failed or the prompt is too long for the model."""

    too_long: bool


class Answerer(Protocol):
    """A model with its context, a rule, or anything else that answers a batch of questions.

    Attributes:
        name: display name.
        context: what it sees of the history ("none": nothing).
        settings: JSON values that its answers depend on, such as a fingerprint of the weights.
    """

    name: str
    context: str
    settings: dict[str, JsonValue]

    def answer(self, questions: Sequence[Question], history: History | None) -> Sequence[Answer]:
        """Answers questions about one history.

        Args:
            questions: all about `history`.
            history: None in context "none".

        Returns:
            One answer per question, in order.
        """
        ...


@runtime_checkable
class StreamingAnswerer(Protocol):
    """An answerer that has several questions in flight and yields each answer as it arrives."""

    name: str
    context: str
    settings: dict[str, JsonValue]

    def stream(
        self, asked: Iterable[tuple[Question, History | None]]
    ) -> Iterator[tuple[Question, Answer | Unanswered, float]]:
        """Yields (question, its answer, seconds it took) for every question, in the order of the answers."""
        ...


@runtime_checkable
class WritesMemories(Protocol):
    """An answerer that first reads histories into memories, stored as files in `folder`."""

    folder: Path

    def prepare(self, histories: Sequence[History]) -> None:
        """Writes the memories that do not exist yet."""
        ...
