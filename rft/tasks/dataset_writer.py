"""Writes a JSONL dataset folder: rows by split, histories, and a card that says where they come from.

Invariant: the folder appears complete or not at all. Everything is written into a hidden folder next to it,
which is renamed at the end and removed after an error. A row of the source that does not become a question is
on the card with its place and the reason.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from rft.data.history import HALF_PAIR
from rft.errors import DataError
from rft.files import occupied

VERSION = 1
CARD = "dataset.json"
HISTORIES = "histories"


class Dropped(NamedTuple):
    """A row or file of the source that gave no question.

    where: file and row or key, such as "locomo10.json: conv-26-167".
    """

    where: str
    reason: str


class Published(NamedTuple):
    """A published figure, for reference next to a run. None of them was measured here.

    name: the system and its setting.
    metric: what was counted, such as "judge".
    value: share between 0 and 1.
    source: paper, page or thread that states it.
    """

    name: str
    metric: str
    value: float
    source: str


class DatasetWriter:
    """Writes one dataset folder; use it as a context manager.

    Args:
        folder: folder to create.
        name: name of the dataset.
        source: where the original files come from.
        license: licence of the original files.
        report_by: labels by which reports break down the results.
        published: figures for reference.

    Attributes:
        counts: rows written, by split.
        dropped: what gave no question, in order.
        notes: what the user should know about the data.
        made: how the dataset was made, as plain JSON; {} adds nothing to the card.
        judge_only: whether the answers tell a judge what is right, and cannot be compared as texts.

    Raises:
        DataError: the folder exists and is not empty, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        source: str,
        license: str,
        report_by: Sequence[str],
        published: Sequence[Published] = (),
    ):
        if occupied(folder):
            raise DataError(f"{folder}: already exists and is not an empty folder; choose another --out")
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.dropped: list[Dropped] = []
        self.notes: list[str] = []
        self.made: dict[str, Any] = {}
        self.judge_only = False
        self._card = {"version": VERSION, "name": name, "task": "jsonl", "source": source, "license": license}
        self._lists = {"report_by": list(report_by), "published": [p._asdict() for p in published]}
        self._partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        self._splits: dict[str, IO[str]] = {}
        self._mended = 0

    def __enter__(self) -> "DatasetWriter":
        self._partial.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for stream in self._splits.values():
            stream.close()
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def history(self, name: str, messages: Sequence[Mapping[str, Any]]) -> str:
        """Writes a history and returns the path that rows name.

        Args:
            name: unique name; characters that are not safe in a file name are replaced.
            messages: as in the row format: role, content, and optionally name, date and session.

        Raises:
            DataError: there is no message, or another history has this name.
        """
        if not messages:
            raise DataError(f"history {name}: no messages; expected at least one")
        link = f"{HISTORIES}/{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.json"
        path = self._partial / link
        if path.exists():
            raise DataError(f"history {name}: two histories have this name; expected one")
        path.parent.mkdir(exist_ok=True)
        path.write_text(self._json(list(messages)) + "\n", encoding="utf-8")
        return link

    def row(self, split: str, row: Mapping[str, Any]) -> None:
        """Appends a question to a split."""
        if split not in self._splits:
            self._splits[split] = (self._partial / f"{split}.jsonl").open("w", encoding="utf-8")
        self._splits[split].write(self._json(row) + "\n")
        self.counts[split] += 1

    def drop(self, where: str, reason: str) -> None:
        """Records that a row or file of the source gives no question."""
        self.dropped.append(Dropped(where, reason))

    def note(self, text: str) -> None:
        """Records what the user should know about the data."""
        self.notes.append(text)

    def note_repeats(self, what: str, keys: Mapping[str, Hashable]) -> None:
        """Notes which ids have the same key."""
        by_key: dict[Hashable, list[str]] = {}
        for id, key in keys.items():
            by_key.setdefault(key, []).append(id)
        if repeated := [" = ".join(ids) for ids in by_key.values() if len(ids) > 1]:
            self.note(f"{what}: {len(repeated)} ({'; '.join(repeated)})")

    def _finish(self) -> None:
        if not self.counts:
            first = f"; the first reason: {': '.join(self.dropped[0])}" if self.dropped else ""
            raise DataError(f"{self._card['name']}: no question could be converted{first}")
        if self._mended:
            self.note(f"halves of surrogate pairs, replaced with U+FFFD: {self._mended}")
        card = {
            **self._card,
            **self._lists,
            "judge_only": self.judge_only,
            "dropped": [drop._asdict() for drop in self.dropped],
            "notes": self.notes,
            **({"made": self.made} if self.made else {}),
        }
        text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
        (self._partial / CARD).write_text(text, encoding="utf-8", errors="backslashreplace")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._partial, self.folder)

    def _json(self, value: object) -> str:
        text, mended = HALF_PAIR.subn("\ufffd", json.dumps(value, ensure_ascii=False))
        self._mended += mended
        return text
