"""A memory on disk: one Markdown file that its user can read, edit and delete.

Invariant: at every moment the file holds a whole memory, the last one or the one before; no two processes write one memory.
Beside `memory.md` stand `memory.previous.md`, the version before the last write, and `.memory.md.json`, the record of how far
the history has been read and of each turn. The file is what counts: edited, the edited text is what the next update starts
from; deleted, nothing is known any more and reading starts anew.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rft.errors import DataError
from rft.files import claim, write_atomic
from rft.memory import text
from rft.memory.chunks import Chunk
from rft.memory.text import Count, Update


@dataclass
class Record:
    """What has been read and written. chunks: ids of the chunks read; turns: the memory after each, with its `cut` and
    `empty`; memory_sha: of the file as the last turn left it; input_tokens, output_tokens: of all updates, None where a
    server has not said how many one of them had."""

    writer: dict[str, Any]
    chunks: list[str] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    memory_sha: str = ""
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    finished: bool = False


class MemoryStore:
    """One memory, held for one writer; a context manager.

    path: the Markdown file. writer: JSON values that say by what model and settings it is written, kept in the record.

    Raises DataError where another process holds it, or it cannot be read or written.
    """

    def __init__(self, path: Path | str, writer: dict[str, Any]):
        self.path = Path(path).expanduser()
        self.writer = json.loads(json.dumps(writer))
        self._lock_path = self.path.with_name(f".{self.path.name}.lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = open(self._lock_path, "ab")
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write a memory here: {error.strerror or error}; name another file"
            ) from None
        try:
            taken = f"{self.path}: another process is writing this memory; wait for it, or name another file"
            claim(self._lock, DataError(taken))
            self.record = read_record(self.path) or Record(self.writer)
            if not self.path.exists():  # deleted by its user, or new
                self.record = Record(self.writer)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> "MemoryStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.close()

    def read(self, budget: int, count: Count) -> str:
        """The memory; "" where there is none. Raises DataError for a file that is no memory or beyond its budget."""
        return read_memory(self.path, budget, count)

    @property
    def edited(self) -> bool:
        """Whether somebody has changed the file since the last turn."""
        return self.path.exists() and bool(self.record.memory_sha) and _sha(self.path.read_bytes()) != self.record.memory_sha

    def unread(self, chunks: Sequence[Chunk]) -> int:
        """The index of the first chunk that is still to be read. Where the conversation has grown, that is the last chunk
        read, if it has grown too.

        Raises:
            DataError: the memory was written from another history, or with other chunks.
        """
        ids, done = [chunk.history.id for chunk in chunks], self.record.chunks
        same = next((i for i, (a, b) in enumerate(zip(done, ids, strict=False)) if a != b), min(len(done), len(ids)))
        if same < len(done) - 1 or len(ids) < len(done):
            raise DataError(
                f"{self.path}: was written from another history or with other chunks (the first {same} of {len(done)} are "
                "the same); name another file, or remove this one to start anew"
            )
        return same

    def append(
        self, place: int, chunk: Chunk, update: Update, input_tokens: int | None, output_tokens: int | None, finished: bool
    ) -> None:
        """Store the memory after chunk `place`, from 0. The version before stays in `memory.previous.md`.

        input_tokens, output_tokens: of this update; finished: whether it was the last chunk.

        Raises:
            DataError: the disk refuses; the memory and the record are as before.
        """
        record = Record(
            self.writer,
            [*self.record.chunks[:place], chunk.history.id],
            [*self.record.turns[:place], {**asdict(update), "first": chunk.first, "last": chunk.last}],
            _sha(update.memory.encode() + b"\n"),
            _sum(self.record.input_tokens, input_tokens),
            _sum(self.record.output_tokens, output_tokens),
            finished,
        )
        try:
            if self.path.exists():
                previous = self.path.with_name(f"{self.path.stem}.previous{self.path.suffix}")
                write_atomic(previous, self.path.read_bytes(), durable=True)
            # The file first: killed in between, the chunk is read once more, by a memory that knows it already.
            write_atomic(self.path, update.memory.encode() + b"\n", durable=True)
            write_atomic(record_path(self.path), json.dumps(asdict(record), ensure_ascii=False, indent=1).encode(), durable=True)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write it: {error.strerror or error}; the memory in it is whole; make room and run the "
                "same command again, it goes on at its chunk"
            ) from None
        self.record = record


def read_memory(path: Path, budget: int, count: Count) -> str:
    """The memory in a file; "" where there is no file. Raises DataError for a file that is no memory or beyond its budget."""
    try:
        return text.read(path.read_bytes().decode("utf-8"), str(path), budget, count)
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; a memory is plain text") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read this memory: {error.strerror or error}") from None


def read_record(path: Path) -> Record | None:
    """The record beside a memory file; None where there is none. Raises DataError for a broken one."""
    beside = record_path(path)
    try:
        return Record(**json.loads(beside.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{beside}: cannot read the record of this memory ({error}); remove it, and the history is read anew"
        ) from None


def record_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _sum(before: int | None, more: int | None) -> int | None:
    return None if before is None or more is None else before + more


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
