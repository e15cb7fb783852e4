"""What an answer is, and what can give one.

Invariant: an answerer's answers depend on nothing but the question, its history and the answerer's `settings`.
Settings go into the identity of a run: answers given under other settings are never mixed with these.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rft.data.history import History
from rft.data.question import Question


@dataclass(frozen=True)
class Answer:
    """A completion as text, special tokens removed, and what it cost in tokens (cached_tokens: of the input, those
    that the server had in its prefix cache; None: not given) and dollars.

    finished: False where the completion was cut off at the longest length allowed. failures: calls that failed
    before this one, by kind. read: for people, what the context chose to show the model, where that is not obvious.
    writing_tokens: what was read to write the memory that it is answered from (once for all questions of the history).
    ending: why there is no answer (refusal, content_filter, tool_calls, empty); "" where there is one. adapted: how the
    question was put otherwise than set, since the server would not take it so.
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
    """In place of an answer: every attempt failed, of which `failures` has the count by kind, or the prompt is too long."""

    reason: str
    failures: Mapping[str, int]
    too_long: bool = False


class Answerer(Protocol):
    """A model with its context, a rule, or anything else that answers a batch of questions.

    name: as it is shown. context: what it sees of the history ("none": nothing). settings: JSON values, such
    as a fingerprint of the weights, that its answers depend on.
    """

    name: str
    context: str
    settings: dict[str, Any]

    def answer(self, questions: Sequence[Question], history: History | None) -> Sequence[Answer]:
        """One answer per question, in order. All are about `history`, which is None in context "none"."""
        ...


@runtime_checkable
class StreamingAnswerer(Protocol):
    """An answerer that has several questions in flight and gives each answer as it comes."""

    name: str
    context: str
    settings: dict[str, Any]

    def stream(self, asked: Iterable[tuple[Question, History | None]]) -> Iterator[tuple[Question, Answer | Unanswered, float]]:
        """(question, its answer, seconds that took) for every question, in the order they are answered."""
        ...


@runtime_checkable
class WritesMemories(Protocol):
    """An answerer that reads histories into memories, files in `folder`, before anything is asked about them."""

    folder: Path

    def prepare(self, histories: Sequence[History]) -> None:
        """Write the memories that are not there yet."""
        ...
