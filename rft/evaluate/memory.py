"""The answerer of `--context memory`: it reads each history once into a memory on disk, and answers from the memory alone.

Invariant: an answer depends on the memory and the question, never on the history; a memory is written once per history,
before and without any question, and found again when the run is resumed.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rft.data.dataset import Split
from rft.data.history import History
from rft.data.question import Question
from rft.errors import DataError, ModelError
from rft.evaluate.answer import Answer
from rft.evaluate.backend import LocalModel
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.memory.notes import load_notes
from rft.memory.store import MemoryStore, Record, read_memory, read_record
from rft.memory.write import write

logger = logging.getLogger(__name__)


class MemoryAnswers:
    """A local model that writes memories of histories into `folder`, one Markdown file each, and answers from them.

    max_new_tokens: of an answer; temperature: 0 is greedy, of updates and answers; seed: of samples; token_cache: folder of
    the chunks' token ids; batch_size: histories read side by side.
    """

    context = "memory"

    def __init__(
        self,
        model: LocalModel,
        folder: Path | str,
        memory: MemorySettings,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int = 0,
        token_cache: Path | str | None = None,
        batch_size: int = 8,
    ):
        self.model, self.name = model, model.name
        self.folder = Path(folder).expanduser()
        self.agent = MemoryAgent(model.tokenizer, memory, token_cache)
        self.max_new_tokens, self.temperature, self.seed, self.batch_size = max_new_tokens, temperature, seed, batch_size
        self.writer: dict[str, Any] = {
            "model_fingerprint": model.fingerprint,
            "dtype": str(model.model.dtype).removeprefix("torch."),
            "temperature": temperature,
            "chunk_tokens": memory.chunk_tokens,
            "memory_tokens": memory.memory_tokens,
            "max_chunks": memory.max_chunks,
        } | ({"sampling_seed": seed} if temperature > 0 else {})
        self.settings: dict[str, Any] = {**self.writer, "max_new_tokens": max_new_tokens}

    def path(self, history: History) -> Path:
        """Where the memory of a history lies."""
        return self.folder / f"{history.id}.md"

    def prepare(self, histories: Sequence[History]) -> None:
        """Write the memories that are not there yet, `batch_size` histories at a time.

        Raises:
            DataError: a memory by another model or other settings, one that is being written, or a disk that refuses.
            ModelError: a chunk with its memory does not fit the model.
        """
        from rich.progress import track

        todo = [history for history in histories if not self._is_finished(history)]
        self._check_length(todo)
        if todo:
            logger.info("memories: %d of %d histories are to be read, into %s", len(todo), len(histories), self.folder)
        starts = range(0, len(todo), self.batch_size)
        for start in track(starts, "writing memories", transient=True, disable=not todo):
            together = todo[start : start + self.batch_size]
            with ExitStack() as held:
                stores = [held.enter_context(MemoryStore(self.path(history), self.writer)) for history in together]
                for _ in write(self.agent, self._generate, self.model.end_ids, together, stores):
                    pass

    def answer(self, questions: Sequence[Question], history: History | None) -> list[Answer]:
        """One batch about one history."""
        assert history is not None
        if not self._is_finished(history):
            self.prepare([history])
        memory = read_memory(self.path(history), self.agent.settings.memory_tokens, self.agent.count)
        record = self._record(history)
        prompts = [self.agent.answer_ids(question, memory) for question in questions]
        completions = self._generate(prompts, self.max_new_tokens)
        return [
            Answer(
                completion=self.model.tokenizer.decode(ids, skip_special_tokens=True),
                input_tokens=len(prompt),
                output_tokens=len(ids),
                finished=bool(ids) and ids[-1] in self.model.end_ids,
                writing_tokens=record.input_tokens,
            )
            for prompt, ids in zip(prompts, completions, strict=True)
        ]

    def _generate(self, prompts: list[list[int]], longest: int) -> list[list[int]]:
        content = json.dumps([self.seed, prompts])  # a seed of what is drawn here, not of what was drawn before
        seed = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big")
        return self.model.generate(prompts, longest, self.temperature, seed)

    def _record(self, history: History) -> Record:
        record = read_record(self.path(history))
        assert record is not None, "prepare has been here"
        return record

    def _is_finished(self, history: History) -> bool:
        path = self.path(history)
        record = read_record(path) if path.exists() else None
        if record is not None and record.writer != json.loads(json.dumps(self.writer)):
            raise DataError(
                f"{path}: written by another model or with other settings ({record.writer}, not {self.writer}); name another "
                "--out, or remove the folder"
            )
        return record is not None and record.finished

    def _check_length(self, histories: Sequence[History]) -> None:
        if self.model.longest is None:
            return
        for history in histories:
            needed = (
                max(len(self.agent.update_ids(chunk, "")) for chunk in self.agent.chunks(history))
                + 2 * self.agent.settings.memory_tokens
            )
            if needed > self.model.longest:
                raise ModelError(
                    f"{history.path}: a chunk, the memory and its update may have {needed} tokens, more than the "
                    f"{self.model.longest} positions of {self.name}; choose smaller --chunk-tokens or --memory-tokens"
                )


def forgotten(split: Split, folder: Path | str) -> dict[str, Any]:
    """How many of the phrases that users asked to forget are gone from their last memory, of those that it ever held.

    Returns:
        withdrawn: phrases that the split's users ask to forget; written: of these, how many a memory held after some chunk;
        gone: of these, how many the last memory does not hold; rate: gone / written (None where none was written); kept:
        where one still stands, as [history, phrase].
    """
    from reward.memory import speaks_of

    withdrawn = written = gone = 0
    kept = []
    for history, notes in load_notes(split).items():
        record = read_record(Path(folder) / f"{history}.md")
        versions = [turn["memory"] for turn in record.turns] if record else []
        for phrase in notes.withdrawn:
            withdrawn += 1
            if any(speaks_of(memory, phrase) for memory in versions):
                written += 1
                gone += not speaks_of(versions[-1], phrase)
                if speaks_of(versions[-1], phrase):
                    kept.append([history, phrase])
    return {
        "withdrawn": withdrawn,
        "written": written,
        "gone": gone,
        "rate": gone / written if written else None,
        "kept": kept,
    }


def timelines(split: Split, folder: Path | str, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Per history what the memory page shows: persona, what each chunk added, changed and removed, and the questions asked of
    it."""
    from rft.memory.text import changes

    asked: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        asked.setdefault(row["history_id"], []).append(row)
    for history, of_history in asked.items():
        record = read_record(Path(folder) / f"{history}.md")
        if record is None:
            continue
        versions = ["", *(turn["memory"] for turn in record.turns)]
        yield {
            "history": history,
            "persona": split.histories[history].persona_id,
            "questions": of_history,
            "turns": [
                {**turn, "changes": changes(before, after)}
                for turn, before, after in zip(record.turns, versions, versions[1:], strict=False)
            ],
            "memory": versions[-1],
            "input_tokens": record.input_tokens,
        }
