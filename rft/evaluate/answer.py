"""What an answer is, and what can give one.

Invariant: an answerer is asked about one history at a time, and its answers depend on nothing but the
questions, that history and its `settings`. Settings go into the identity of a run: answers given under other
settings are never mixed with these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rft.data.history import History
from rft.data.question import Question


@dataclass(frozen=True)
class Answer:
    """A completion as text, special tokens removed, and what it cost in tokens.

    finished: False where the completion was cut off at the longest length allowed. writing_tokens: what was
    read to write the memory that it is answered from (once for all questions of the history), 0 without one.
    """

    completion: str
    input_tokens: int = 0
    output_tokens: int = 0
    finished: bool = True
    writing_tokens: int = 0


class Answerer(Protocol):
    """A model with its context, a rule, or anything else that answers questions.

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
class Remembers(Protocol):
    """An answerer that reads histories into memories, in `folder`, before anything is asked about them."""

    folder: Path

    def prepare(self, histories: Sequence[History]) -> None:
        """Write the memories that are not there yet."""
        ...
