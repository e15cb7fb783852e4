"""The context "memory": notes that a model wrote while reading a history in chunks, one file on disk per
history.

Invariant: a conversation contains the memory and the question, never the history. A memory is written once
per history, before and independently of any question, and is reused when the run is resumed.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import JsonValue

from rft.data.history import History
from rft.data.prompt import SYSTEM, final_message
from rft.data.question import Question
from rft.errors import DataError
from rft.evaluate.answer import HISTORIES_AT_ONCE, Answer
from rft.evaluate.model_answers import ModelAnswers
from rft.evaluate.timeline import memory_path
from rft.memory.agent import MemoryAgent, MemorySettings, answer_message
from rft.memory.store import MemoryRecord, MemoryStore, read_memory, read_record
from rft.memory.throughput import Throughput
from rft.memory.write import write
from rft.models.local import Generator

logger = logging.getLogger(__name__)

MEMORIES = "memories"
"""The subfolder of a run's folder that contains the memories."""


class Memory:
    """A `Context` whose memories are written by `model`, unless they are already in `folder`.

    Args:
        model: writes the memories.
        folder: folder of the memory files.
        memory: settings of the memory agent.
        temperature: temperature of memory updates; 0 is greedy.
        seed: seed of the sampling.
        token_cache: folder of the chunks' token ids.
        batch_size: histories read at the same time.
    """

    name = "memory"

    def __init__(
        self,
        model: Generator,
        folder: Path | str,
        memory: MemorySettings,
        temperature: float = 0.0,
        seed: int = 0,
        token_cache: Path | str | None = None,
        batch_size: int = HISTORIES_AT_ONCE,
    ):
        self.model, self.folder = model, Path(folder).expanduser()
        self.agent = MemoryAgent(model.tokenizer, memory, token_cache)
        self.temperature, self.seed, self.batch_size = temperature, seed, batch_size
        self.settings: dict[str, JsonValue] = asdict(memory)
        self.writer: dict[str, JsonValue] = {
            "model_fingerprint": model.fingerprint,
            "dtype": model.dtype,
            "temperature": temperature,
            **self.settings,
        } | ({"sampling_seed": seed} if temperature > 0 else {})

    def messages(self, question: Question, history: History | None) -> list[dict[str, str]]:
        """The conversation: system prompt, then memory and question. Writes a missing memory first.

        Raises:
            DataError: as `prepare`, or the memory was edited so that it is no longer valid or exceeds its
                budget.
            ModelError: as `prepare`.
        """
        memory = self._of(history)
        return [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": answer_message(memory, final_message(question))},
        ]

    def read(self, question: Question, history: History | None) -> str:
        """The size of the memory, in words for people."""
        memory = self._of(history)
        return f"a memory of {len(memory.splitlines())} lines, {self.agent.count(memory)} tokens"

    def prepare(self, histories: Sequence[History]) -> None:
        """Writes the memories that do not exist yet, `batch_size` histories at a time, and prints what it
        took. Long histories come first: one that came last would be read alone.

        Raises:
            DataError: a memory comes from another model or other settings, another process is writing it, or
                the disk cannot be written.
            ModelError: a chunk with its memory does not fit into the model.
        """
        from rich.progress import track

        from rft.screen import screen

        todo = [history for history in histories if not self._is_finished(history)]
        if not todo:
            return
        console, throughput = screen(stderr=True), Throughput(len(todo), self.batch_size)
        for history in todo:
            self.agent.check_length(history, self.model.longest, self.model.name)
        logger.info("memories: reading %d of %d histories into %s", len(todo), len(histories), self.folder)
        todo.sort(key=lambda history: -len(self.agent.chunks(history)))

        def generate(prompts: list[list[int]], longest: int) -> list[list[int]]:
            completions = self._generate(prompts, longest)
            throughput.add(prompts, completions)
            return completions

        stores = ((history, MemoryStore(self._path(history), self.writer)) for history in todo)
        turns = write(self.agent, generate, self.model.end_ids, stores, self.batch_size)
        unread = sum(len(self.agent.chunks(history)) - self._updates(history) for history in todo)
        for _ in track(turns, "writing memories", total=unread, console=console, transient=True):
            pass
        console.print(throughput.line(), markup=False, highlight=False)

    def writing_tokens(self, history: History) -> int:
        """Number of tokens read to write the memory of a history."""
        record = self._record(history)
        return (record.input_tokens or 0) if record is not None else 0

    def _of(self, history: History | None) -> str:
        if history is None:
            raise DataError("context 'memory' needs the question's history")
        self.prepare([history])
        return read_memory(self._path(history), self.agent.settings.memory_tokens, self.agent.count)

    def _generate(self, prompts: list[list[int]], longest: int) -> list[list[int]]:
        content = json.dumps([self.seed, prompts])  # the seed depends on these prompts, not on earlier calls
        seed = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big")
        return self.model.generate(prompts, longest, self.temperature, seed)

    def _path(self, history: History) -> Path:
        return memory_path(self.folder, history.id)

    def _record(self, history: History) -> MemoryRecord | None:
        """None if there is no memory file, also if the user has deleted it."""
        path = self._path(history)
        return read_record(path) if path.exists() else None

    def _updates(self, history: History) -> int:
        record = self._record(history)
        return len(record.turns) if record is not None else 0

    def _is_finished(self, history: History) -> bool:
        record = self._record(history)
        if record is not None and record.writer != json.loads(json.dumps(self.writer)):
            raise DataError(
                f"{self._path(history)}: written by another model or with other settings ({record.writer},"
                f" not {self.writer}); name another --out, or remove the folder"
            )
        return record is not None and record.finished


class MemoryAnswers(ModelAnswers):
    """The answerer of `--context memory`: a model on this machine that answers from memories.

    Args:
        memory: the memories; its temperature and seed are also those of the answers.
        max_new_tokens: maximum tokens per answer.
        reader: the model that answers from the memories; None: the model that writes them.
    """

    def __init__(self, memory: Memory, max_new_tokens: int = 1024, reader: Generator | None = None):
        self.memory, self.folder = memory, memory.folder
        super().__init__(reader or memory.model, memory, max_new_tokens, memory.temperature, memory.seed)
        if reader is not None:
            self.settings["writer_fingerprint"] = memory.model.fingerprint

    def read_by(self, reader: Generator) -> "MemoryAnswers":
        """An answerer with the same memories in which `reader` answers."""
        return MemoryAnswers(self.memory, self.max_new_tokens, reader)

    def prepare(self, histories: Sequence[History]) -> None:
        """Writes the memories that do not exist yet; see `Memory.prepare`."""
        self.memory.prepare(histories)

    def answer(self, questions: Sequence[Question], history: History | None) -> list[Answer]:
        """Answers one batch of questions about one history."""
        answers = super().answer(questions, history)
        assert history is not None
        return [replace(answer, writing_tokens=self.memory.writing_tokens(history)) for answer in answers]
