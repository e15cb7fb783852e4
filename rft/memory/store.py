"""A memory on disk: one Markdown file that its user can read, edit and delete.

Invariant: writes are atomic, so the file always contains a complete memory: the last version or the one
before. Only one process at a time can write a memory. Next to `memory.md` are `memory.previous.md`, the
version with which the last reading began, and `.memory.md.json`, the record of the chunks read and of each
update. The Markdown file takes precedence: if the user edits it, the next update starts from the edited text,
and `memory.previous.md` keeps that text until the next reading; if the user deletes it, reading starts over
with an empty memory.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import JsonValue

from rft.errors import DataError
from rft.files import lock, write_atomic
from rft.memory import text
from rft.memory.chunks import Chunk
from rft.memory.text import Count, Proposal
from rft.records.base import Record, read_json


class StoredTurn(Record):
    """The result of an update: see `rft.memory.text.Update`.

    Attributes:
        first: index of the first message read.
        last: index of the last message read.
        edited: the text that the user had written before this update; None: nothing was edited.
    """

    memory: str
    cut: bool
    empty: bool
    first: int
    last: int
    edited: str | None = None


class MemoryRecord(Record):
    """Progress of reading a history, and the result of each update.

    Attributes:
        writer: the model and settings that write the memory.
        chunks: ids of the chunks read.
        turns: the results of the updates.
        memory_sha: SHA-256 of the file after the last update.
        input_tokens: total over all updates (None: a server did not report the count of one of them).
        output_tokens: same for the output.
        finished: whether the last chunk has been read.
    """

    writer: dict[str, JsonValue]
    chunks: list[str] = []
    turns: list[StoredTurn] = []
    memory_sha: str = ""
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    finished: bool = False


class MemoryStore:
    """One memory, locked for one writer; a context manager.

    Args:
        path: the Markdown file.
        writer: JSON values that identify the model and settings that write the memory; stored in the record.

    Raises:
        DataError: another process is writing the memory, or it cannot be read or written.
    """

    def __init__(self, path: Path | str, writer: Mapping[str, JsonValue]):
        self.path = Path(path).expanduser()
        self.writer: dict[str, JsonValue] = json.loads(json.dumps(writer))
        taken = (
            f"{self.path}: another process is writing this memory; wait for it to finish, or choose another"
            " file"
        )
        try:
            self._lock = lock(self.path.with_name(f".{self.path.name}.lock"), DataError(taken))
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write a memory here: {error.strerror or error}; choose another file"
            ) from None
        try:
            self.record = read_record(self.path) or MemoryRecord(writer=self.writer)
            if not self.path.exists():  # deleted by the user, or new
                self.record = MemoryRecord(writer=self.writer)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "MemoryStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes write the memory; closing twice does no harm."""
        self._lock.release()

    @property
    def edited(self) -> bool:
        """Whether the file exists and is not what the last update wrote."""
        return self.path.exists() and _sha(self.path.read_bytes()) != self.record.memory_sha

    def unread(self, chunks: Sequence[Chunk]) -> int:
        """Returns the index of the first unread chunk. If the conversation has grown, this may be the last
        chunk read, if that chunk has grown too.

        Raises:
            DataError: the memory was written from another history or with other chunk settings.
        """
        ids, done = [chunk.history.id for chunk in chunks], self.record.chunks
        same = next(
            (i for i, (a, b) in enumerate(zip(done, ids, strict=False)) if a != b), min(len(done), len(ids))
        )
        if same < len(done) - 1 or len(ids) < len(done):
            raise DataError(
                f"{self.path}: was written from another history or with other chunks (the first {same} of"
                f" {len(done)} are the same); choose another file, or remove this one to start over"
            )
        return same

    def append(self, place: int, chunk: Chunk, proposal: Proposal, finished: bool) -> None:
        """Stores the memory after a chunk. `memory.previous.md` keeps the version with which the reading
        began, and what the user wrote.

        Args:
            place: index of the chunk, from 0.
            chunk: the chunk that was read.
            proposal: the result of the update.
            finished: whether this was the last chunk.

        Raises:
            DataError: writing failed; the memory file is complete, and the chunk is read again on the next
                run.
        """
        update = proposal.update
        try:
            before = self.path.read_bytes() if self.path.exists() else None
            edited = None  # the user may edit the file while it is written, too, and not in UTF-8
            if before is not None and _sha(before) != self.record.memory_sha:
                edited = before.decode("utf-8-sig", "replace").strip()
            turn = StoredTurn(**asdict(update), first=chunk.first, last=chunk.last, edited=edited)
            record = MemoryRecord(
                writer=self.writer,
                chunks=[*self.record.chunks[:place], chunk.history.id],
                turns=[*self.record.turns[:place], turn],
                memory_sha=_sha(update.memory.encode() + b"\n"),
                input_tokens=_sum(self.record.input_tokens, proposal.input_tokens),
                output_tokens=_sum(self.record.output_tokens, proposal.output_tokens),
                finished=finished,
            )
            if before is not None and (edited is not None or self.record.finished):
                previous = self.path.with_name(f"{self.path.stem}.previous{self.path.suffix}")
                write_atomic(previous, before, durable=True)
            # The file first: if killed in between, the chunk is read again, starting from a memory that
            # already includes it.
            write_atomic(self.path, update.memory.encode() + b"\n", durable=True)
            write_atomic(record_path(self.path), record.to_text().encode(), durable=True)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write it: {error.strerror or error}; the memory in it is complete; free"
                " some space and run the same command again to resume at this chunk"
            ) from None
        self.record = record


def read_memory(path: Path, budget: int, count: Count) -> str:
    """Returns the memory in a file, "" if there is no file. Raises DataError if it is not a memory or exceeds
    the budget."""
    try:
        return text.read(path.read_bytes().decode("utf-8-sig"), str(path), budget, count)
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {error.start}; a memory must be plain text in UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot read this memory: {error.strerror or error}") from None


def read_record(path: Path) -> MemoryRecord | None:
    """Returns the record of a memory file, None if there is none. Raises DataError if the record is
    broken."""
    beside = record_path(path)
    if not beside.exists():
        return None
    return read_json(beside, MemoryRecord, "remove it to read the history again from the start")


def record_path(path: Path) -> Path:
    """Returns the path of the record of a memory file."""
    return path.with_name(f".{path.name}.json")


def _sum(before: int | None, more: int | None) -> int | None:
    return None if before is None or more is None else before + more


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
