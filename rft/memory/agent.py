"""The memory agent: builds the prompts for memory updates and for answers. Training, evaluation and the
command line share it.

Invariant: an update depends only on one chunk and the memory before it. Its prompt never contains a question,
an option or another chunk: this module does not see questions when it builds an update prompt. An answer
depends only on the memory and the question.

    update   system · chunk's messages · user: how to rewrite, the memory so far   -> the rewritten memory
    answer   system · user: the memory, the question                               -> the answer

The chunk comes before the memory, and the memory before the question, so that rows with the same chunk or
memory share a prefix.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rft.data.control import inert
from rft.data.history import History
from rft.data.prompt import PromptTokens, final_message
from rft.data.question import Question
from rft.errors import ModelError
from rft.memory import chunks, text
from rft.memory.chunks import Chunk
from rft.memory.text import EMPTY, Update

REWRITE = (
    "Above is a part of the user's conversations. Below is the memory about the user so far. Rewrite the"
    ' memory: keep what still holds, in order; replace what has changed; end with "forget it" what the user'
    ' asks to forget; add what is new at the end. Write nothing but lines such as "- topic: what is known",'
    " or (empty)."
)
HEADING = "Memory about the user:"


@dataclass(frozen=True)
class MemorySettings:
    """Settings for reading a history.

    Args:
        chunk_tokens: maximum tokens per history chunk.
        memory_tokens: maximum tokens of a memory, and of the completion that updates it.
        max_chunks: read only the N most recent chunks (None: all).
    """

    chunk_tokens: int = 5000
    memory_tokens: int = 2048
    max_chunks: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: expected 1 or more")


def update_message(memory: str) -> str:
    """Returns the final user message of an update."""
    return f"{REWRITE}\n\n{HEADING}\n{inert(memory) or EMPTY}"


def answer_message(memory: str, message: str) -> str:
    """Returns the user message of an answer to `message`, the user's question."""
    return f"{HEADING}\n{inert(memory) or EMPTY}\n\n{message}"


class MemoryAgent:
    """Builds prompts for updates and answers as token ids, and turns the model's completions into memories.

    Args:
        tokenizer: as for `PromptTokens`.
        settings: sizes of chunks and memories.
        cache_dir: as for `PromptTokens`.
    """

    def __init__(self, tokenizer: Any, settings: MemorySettings, cache_dir: Path | str | None = None):
        self.tokenizer, self.settings = tokenizer, settings
        self.tokens = PromptTokens(tokenizer, "history", cache_dir)
        self._tokens_without_history = PromptTokens(tokenizer, "none")
        self._chunks: dict[str, list[Chunk]] = {}

    def chunks(self, history: History) -> list[Chunk]:
        """Returns the chunks of a history (cached). Raises DataError like `rft.memory.chunks.split`."""
        if history.id not in self._chunks:
            self._chunks[history.id] = chunks.split(
                history, self.tokens, self.settings.chunk_tokens, self.settings.max_chunks
            )
        return self._chunks[history.id]

    def count(self, memory: str) -> int:
        """Returns the number of tokens of a memory."""
        return len(self.tokenizer(memory, add_special_tokens=False, verbose=False)["input_ids"])

    def update_ids(self, chunk: Chunk, memory: str) -> list[int]:
        """Returns the token ids of an update prompt."""
        return self.tokens.history_ids(chunk.history) + self.tokens.final_ids(update_message(memory))

    def check_length(self, history: History, longest: int | None, model: str) -> None:
        """Checks that a chunk, the memory and its update fit into the model, before anything is read.

        Args:
            history: the history to read.
            longest: the positions of the model (None: unlimited).
            model: name of the model.

        Raises:
            ModelError: if they do not fit.
        """
        chunk = max(len(self.update_ids(chunk, "")) for chunk in self.chunks(history))
        memory = self.settings.memory_tokens
        if longest is not None and chunk + 2 * memory > longest:
            raise ModelError(
                f"{history.path}: a chunk of {chunk} tokens, and a memory and its update of up to {memory}"
                f" each, do not fit into the {longest} positions of {model}; choose smaller ones, such as"
                f" --chunk-tokens {longest // 2} --memory-tokens {longest // 8}"
            )

    def accept(self, completion: Sequence[int], previous: str, end_ids: Sequence[int]) -> Update:
        """Returns the memory after an update.

        Args:
            completion: token ids that the model generated; finished if the last one is in `end_ids`.
            previous: the memory before the update.
            end_ids: tokens that end a completion.
        """
        written = self.tokenizer.decode(completion, skip_special_tokens=True)
        finished = bool(completion) and completion[-1] in end_ids
        return text.accept(written, previous, finished, self.settings.memory_tokens, self.count)

    def answer_ids(self, question: Question, memory: str) -> list[int]:
        """Returns the prompt for a question of a dataset, as token ids."""
        return self.say_ids(final_message(question), memory)

    def say_ids(self, message: str, memory: str) -> list[int]:
        """Returns the prompt for any user message; pass text from other people through `inert` first."""
        return self._tokens_without_history.history_ids(None) + self._tokens_without_history.final_ids(
            answer_message(memory, message)
        )
