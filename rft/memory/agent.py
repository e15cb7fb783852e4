"""The agent: what a model reads when it updates a memory and when it answers from one. Training, evaluation and the command
line share it.

Invariant: an update is a function of one chunk and the memory before it. No question, no option and no other chunk is ever in
its prompt; this module does not see questions when it makes one. An answer is a function of the memory and the question
alone.

    update   system · chunk's messages · user: how to rewrite, the memory so far        -> the memory, rewritten
    answer   system · user: the memory, the question                                    -> the answer

The chunk stands before the memory, and the memory before the question, so that rows which share them share a prefix.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rft.data.control import inert
from rft.data.history import History
from rft.data.prompt import PromptTokens, final_message
from rft.data.question import Question
from rft.memory import chunks, text
from rft.memory.chunks import Chunk
from rft.memory.text import EMPTY, Update

REWRITE = (
    "Above is a part of the user's conversations. Below is the memory about the user so far. Rewrite the memory: keep what "
    'still holds, in order; replace what has changed; end with "forget it" what the user asks to forget; add what is new at '
    'the end. Write nothing but lines such as "- topic: what is known", or (empty).'
)
HEADING = "Memory about the user:"


@dataclass(frozen=True)
class MemorySettings:
    """How a history is read. chunk_tokens: of a chunk; memory_tokens: of a memory, and of what an update may write;
    max_chunks: the newest so many are read (None: all)."""

    chunk_tokens: int = 5000
    memory_tokens: int = 2048
    max_chunks: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: expected 1 or more")


def update_message(memory: str) -> str:
    """The final user message of an update."""
    return f"{REWRITE}\n\n{HEADING}\n{inert(memory) or EMPTY}"


def answer_message(memory: str, said: str) -> str:
    """The user message of an answer; `said`: what the user asks."""
    return f"{HEADING}\n{inert(memory) or EMPTY}\n\n{said}"


class MemoryAgent:
    """Prompts of updates and answers as token ids, and what becomes of the text that a model writes.

    tokenizer, cache_dir: as for `PromptTokens`.
    """

    def __init__(self, tokenizer: Any, settings: MemorySettings, cache_dir: Path | str | None = None):
        self.tokenizer, self.settings = tokenizer, settings
        self.tokens = PromptTokens(tokenizer, "history", cache_dir)
        self._alone = PromptTokens(tokenizer, "none")
        self._chunks: dict[str, list[Chunk]] = {}

    def chunks(self, history: History) -> list[Chunk]:
        """The chunks of a history, cut once. Raises DataError as `rft.memory.chunks.split`."""
        if history.id not in self._chunks:
            self._chunks[history.id] = chunks.split(
                history, self.tokens, self.settings.chunk_tokens, self.settings.max_chunks
            )
        return self._chunks[history.id]

    def count(self, memory: str) -> int:
        """Tokens of a memory."""
        return len(self.tokenizer(memory, add_special_tokens=False, verbose=False)["input_ids"])

    def update_ids(self, chunk: Chunk, memory: str) -> list[int]:
        """The prompt of an update."""
        return self.tokens.history_ids(chunk.history) + self.tokens.final_ids(update_message(memory))

    def accept(self, completion: Sequence[int], previous: str, end_ids: Sequence[int]) -> Update:
        """The memory after an update whose model wrote `completion` (token ids; it is finished if it ends with one of
        `end_ids`)."""
        written = self.tokenizer.decode(completion, skip_special_tokens=True)
        finished = bool(completion) and completion[-1] in end_ids
        return text.accept(written, previous, finished, self.settings.memory_tokens, self.count)

    def answer_ids(self, question: Question, memory: str) -> list[int]:
        """The prompt of a question of a dataset."""
        return self.say_ids(final_message(question), memory)

    def say_ids(self, said: str, memory: str) -> list[int]:
        """The prompt of anything that is asked; text that others wrote is `inert`."""
        return self._alone.history_ids(None) + self._alone.final_ids(answer_message(memory, said))
