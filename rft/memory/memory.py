"""A memory in use: one Markdown file, the model that keeps it, chats that go in and answers that come out.
`rft memory write` and `rft memory answer` are built on it.

Invariant: a chunk that is read is stored, and is not read again; an answer depends only on the file and the
question.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from rft.data.control import inert
from rft.data.history import History, history_id, read_history, read_messages
from rft.errors import DataError
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.memory.endpoint import EndpointAgent
from rft.memory.store import MemoryStore, read_memory
from rft.memory.write import Turn, turns, write
from rft.models.endpoint import Endpoint

if TYPE_CHECKING:
    from rft.models.local import Generator


class Memory:
    """A memory about one person, in a file.

    Args:
        path: the Markdown file; continued if it exists. Its user may read, edit and delete it.
        model: writes the memory and answers from it: checkpoint folder, Hub id, a loaded `LocalModel`, or an
            `Endpoint`.
        chunk_tokens: maximum tokens of a history that are read at a time.
        memory_tokens: maximum tokens of the memory.
        max_chunks: read only the N most recent chunks (None: all).
        temperature: 0 is greedy.
        seed: random seed of sampling.

    Attributes:
        path: the file.
        agent: builds the prompts and counts tokens.

    Raises:
        CheckpointError: there is no such model.
        EndpointError: no call to the endpoint can succeed.
        ValueError: a size is less than 1.
    """

    def __init__(
        self,
        path: Path | str,
        model: "str | Path | Generator | Endpoint",
        *,
        chunk_tokens: int = MemorySettings.chunk_tokens,
        memory_tokens: int = MemorySettings.memory_tokens,
        max_chunks: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ):
        settings = MemorySettings(chunk_tokens, memory_tokens, max_chunks)
        self.path, self.temperature, self.seed = Path(path).expanduser(), temperature, seed
        self.agent: MemoryAgent | EndpointAgent
        if isinstance(model, Endpoint):
            self.agent = EndpointAgent(model, settings, temperature, seed)
            model.now(model.check())
            self._writer: dict[str, JsonValue] = {"model": model.model, "base_url": model.base_url}
        else:
            if isinstance(model, str | Path):
                from rft.models.local import LocalModel

                model = LocalModel(model)
            self.model = model
            self.agent = MemoryAgent(model.tokenizer, settings)
            self._writer = {"model": model.name, "model_fingerprint": model.fingerprint}

    @property
    def text(self) -> str:
        """The memory; "" before anything is read.

        Raises:
            DataError: the file is not a memory, or it was edited and exceeds its budget.
        """
        return read_memory(self.path, self.agent.settings.memory_tokens, self.agent.count)

    def read(self, chat: History | Path | str | Sequence[Mapping[str, Any]]) -> list[Turn]:
        """Reads a chat into the memory, chunk by chunk; stored after each.

        A chat that has grown is read from where it was left: hand over all of it, the messages read before
        included.

        Args:
            chat: a history, its file (JSON), or a list of {"role", "content"} messages.

        Returns:
            What each chunk changed; [] if all of it was read before.

        Raises:
            DataError: the chat is invalid or another one than was read before, or the file cannot be written.
            ModelError: a chunk with the memory does not fit into the model.
        """
        history = history_of(chat)
        with self.store() as store:
            return list(self.reading(history, store))

    def store(self) -> MemoryStore:
        """Returns the file, locked for this writer: a context manager."""
        return MemoryStore(self.path, self._writer)

    def reading(self, history: History, store: MemoryStore) -> Iterator[Turn]:
        """Returns an iterator that reads the next unread chunk at each step, and closes the store after the
        last. Raises the same errors as `read`."""
        if isinstance(self.agent, EndpointAgent):
            return turns(self.agent, self.agent.propose, [(history, store)])
        self.agent.check_length(history, self.model.longest, self.model.name)
        return write(self.agent, self._generate, self.model.end_ids, [(history, store)])

    def answer(self, question: str, max_new_tokens: int = 1024) -> str:
        """Returns the answer to a question from the memory alone.

        Args:
            question: what the user asks.
            max_new_tokens: maximum tokens of the answer.

        Raises:
            DataError: there is no memory yet, the file is not a memory, or the prompt is too long for the
                endpoint.
            ServerError: the endpoint did not answer.
        """
        if not self.path.is_file():
            raise DataError(
                f"{self.path}: no such memory; create one with `rft memory write`, or Memory.read"
            )
        if isinstance(self.agent, EndpointAgent):
            return self.agent.answer(question, self.text, max_new_tokens)
        prompt = self.agent.say_ids(inert(question), self.text)
        return self.model.tokenizer.decode(
            self._generate([prompt], max_new_tokens)[0], skip_special_tokens=True
        )

    def _generate(self, prompts: list[list[int]], longest: int) -> list[list[int]]:
        return self.model.generate(prompts, longest, self.temperature, self.seed)


def history_of(chat: History | Path | str | Sequence[Mapping[str, Any]]) -> History:
    """Returns a chat as a history. Raises DataError if it is none."""
    if isinstance(chat, History):
        return chat
    if isinstance(chat, str | Path):
        return read_history(chat)
    messages = read_messages(list(chat), "chat: ")
    if not messages:
        raise DataError("chat: expected a list with at least one message")
    return History(history_id(messages), "", "chat", messages)
