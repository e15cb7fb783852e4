"""Conversations on disk until every file is read, so that memory does not grow with them.

Invariant: the conversations of a user leave the shelf in time order; those without a date come first, as they
are then never taken for the latest. Two versions of one conversation (equal id and equal first message, as in
two exports of one account) are one: the later version.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rft.tasks.chats.draft import Draft, Said


@dataclass
class Entry:
    """A conversation on the shelf: where its parts are, and what is counted for it."""

    file: str
    number: int
    date: str
    last: str
    first: int
    offsets: list[int]
    messages: int
    mapped: Counter[str]


class Shelf:
    """Conversations of all users in one file of JSON lines. Use it as a context manager.

    Args:
        path: file to write; it is removed at the end.
    """

    def __init__(self, path: Path):
        self.path = path
        self.users: dict[str, dict[tuple[str, ...], Entry]] = {}
        self._number = 0

    def __enter__(self) -> "Shelf":
        self._file = open(self.path, "w+b")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def put(self, user: str, file: str, draft: Draft, key: tuple[str, ...], single: bool) -> Entry | None:
        """Puts a conversation on the shelf.

        Args:
            user: the user's name.
            file: name of the file it is from.
            draft: the conversation; it has messages.
            key: what its other versions, or its other messages, have in common; empty: it has none.
            single: whether the draft is one message, which continues the conversation of the same key.

        Returns:
            The version that is left out: the one of the draft, or an earlier one; None if there is none.
        """
        self._number += 1
        shelf = self.users.setdefault(user, {})
        said = draft.messages
        entry = Entry(
            file,
            self._number,
            next((message.date for message in said if message.date), ""),
            said[-1].date,
            hash((said[0].role, said[0].content)),
            [],
            len(said),
            draft.mapped,
        )
        key = key or (str(self._number),)
        other = shelf.get(key)
        if other and single:
            other.offsets.append(self._write(said))
            other.messages += 1
            other.date, other.last = other.date or entry.date, entry.last or other.last
            other.mapped += draft.mapped
            return None
        if other and other.first != entry.first:
            draft.problem("another conversation has the same id; both are kept")
            key, other = (*key, str(self._number)), None
        if other and (entry.last, entry.messages) <= (other.last, other.messages):
            return entry
        entry.offsets.append(self._write(said))
        shelf[key] = entry
        return other

    def _write(self, said: list[Said]) -> int:
        offset = self._file.seek(0, 2)
        line = json.dumps([[message.role, message.content, message.date] for message in said])
        self._file.write(line.encode("ascii") + b"\n")
        return offset

    def messages(self, user: str) -> Iterator[tuple[int, Said]]:
        """Yields (session, message) of a user: the conversations in time order, numbered from 1."""
        entries = sorted(self.users[user].values(), key=lambda entry: (entry.date, entry.number))
        for session, entry in enumerate(entries, start=1):
            for offset in entry.offsets:
                self._file.seek(offset)
                for message in json.loads(self._file.readline()):
                    yield session, Said(*message)
