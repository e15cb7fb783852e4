"""The results of one run on disk: `run.json` describes the run, `results.jsonl` has one row per answer.

Invariant: every row of `results.jsonl` that ends in a newline is complete and belongs to the run that
`run.json` describes. Each batch of rows is appended atomically, so a killed run loses at most the batch in
flight. An incomplete last line is dropped when the run is resumed.
"""

import contextlib
import logging
import os
from collections.abc import Collection, Sequence
from io import FileIO
from pathlib import Path

from rft.errors import DataError
from rft.files import lock, write_whole
from rft.records.base import read_json, read_lines
from rft.records.row import ResultRow
from rft.records.run import RunIdentity

logger = logging.getLogger(__name__)

SETTINGS, ROWS, LOCK = "run.json", "results.jsonl", ".lock"


class Results:
    """The answers of one run, including those already on disk; a context manager that locks the file for one
    writer.

    Attributes:
        rows: {question id: row}.

    Args:
        folder: the folder of the run.
        identity: the run; a folder with results of another run is rejected.
        ids: ids of all questions of the run.

    Raises:
        DataError: the results belong to another run, a row is broken, another process is writing, or the
            folder cannot be written. The message names the file.
    """

    def __init__(self, folder: Path | str, identity: RunIdentity, ids: Collection[str]):
        self.folder = Path(folder).expanduser()
        self.path = self.folder / ROWS
        self.rows: dict[str, ResultRow] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write results: {error.strerror or error}; choose another --out"
            ) from None
        taken = f"{self.path}: another process is writing these results; wait for it or name another --out"
        try:
            self._lock = lock(self.folder / LOCK, DataError(taken))
            self._claim(identity)
            self._read(ids)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._lock.release()

    def append(self, rows: Sequence[ResultRow]) -> None:
        """Appends a batch of rows atomically: if the disk cannot be written, none of them is kept."""
        data = "".join(row.to_line() for row in rows)
        end = os.fstat(self._file.fileno()).st_size
        try:
            _write_all(self._file, data.encode("utf-8", "backslashreplace"))
        except BaseException as error:
            with contextlib.suppress(OSError):  # the next run drops a partial line
                os.ftruncate(self._file.fileno(), end)
            if not isinstance(error, OSError):
                raise
            raise DataError(
                f"{self.path}: cannot write results: {error.strerror or error}; the answers in it"
                f" ({len(self.rows)}) are complete; free disk space and run the same command again to resume"
            ) from None
        self.rows.update((row.id, row) for row in rows)

    def replace(self, rows: Sequence[ResultRow]) -> None:
        """Rewrites the file atomically with these rows; nothing can be appended afterwards."""
        write_whole(self.path, "".join(row.to_line() for row in rows))
        self.rows = {row.id: row for row in rows}

    def _claim(self, identity: RunIdentity) -> None:
        """Writes `run.json` for a new run, or compares the existing one with this run."""
        path = self.folder / SETTINGS
        empty = not self.path.stat().st_size
        if empty or not path.exists():  # a run without answers has nothing to lose
            if not empty:
                raise DataError(
                    f"{self.path}: results without {SETTINGS}, which describes their run; "
                    "name another --out or remove the file"
                )
            write_whole(path, identity.to_text())
            return
        before, now = read_json(path, RunIdentity, "name another --out").dump(), identity.dump()
        differences = [
            f"{key} was {before.get(key)}, is {now.get(key)}"
            for key in {**now, **before}
            if before.get(key) != now.get(key)
        ]
        if differences:
            raise DataError(
                f"{self.folder}: contains the results of another run ({'; '.join(differences)}); "
                "name another --out, or remove this folder"
            )

    def _read(self, ids: Collection[str]) -> None:
        whole, end = self.path.read_bytes(), 0
        for number, line in enumerate(whole.splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                logger.warning(
                    "%s: line %d was cut short and is dropped; its question is asked again", self.path, number
                )
                os.ftruncate(self._file.fileno(), end)
                break
            end += len(line)
            where, remedy = f"{self.path}: line {number}", "remove that line and run again to resume"
            row = ResultRow.parse(line, where, remedy)
            if row.id not in ids or row.id in self.rows:
                raise DataError(f"{where}: unexpected question {row.id!r}; {remedy}")
            self.rows[row.id] = row


def read_rows(folder: Path | str) -> list[ResultRow]:
    """The rows of a finished results folder, in the order they were written.

    Raises:
        DataError: the file cannot be read or has a broken row. The message names the file, line and key.
    """
    path = Path(folder).expanduser() / ROWS
    return read_lines(path, ResultRow, "run the same evaluation again")


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
