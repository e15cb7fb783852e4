"""Conversations on disk until every file is read, so that memory does not grow with them.

Invariant: the conversations of a user leave the shelf in time order; those without a date come first, as they
are then never taken for the latest. The messages of a log leave it in time order if all of a conversation
have a date, else in the order of the file. Two versions of one conversation (equal id and equal first
message, as in two exports of one account) are one: the later version, in whatever order they come.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rft.tasks.chats.draft import Draft, Said


@dataclass
class Entry:
    """A conversation on the shelf: where its parts are, and what is counted for it.

    Attributes:
        file: name of the file it is from.
        number: its place among all conversations.
        date: when it began; "" if unknown.
        updated: when it was changed last; "" if unknown.
        last: when its last message was said; "" if unknown.
        offsets: where the shelf has it: whole, or each message of a log.
        undated: messages of a log without a date.
        messages: number of its messages.
        mapped: number of its messages taken with a change, for each reason.
    """

    file: str
    number: int
    date: str = ""
    updated: str = ""
    last: str = ""
    offsets: list[int] = field(default_factory=list)
    undated: int = 0
    messages: int = 0
    mapped: Counter[str] = field(default_factory=Counter)

    @property
    def in_order_of_file(self) -> bool:
        """Whether its messages cannot be put in time order, as one of a log has no date."""
        return self.undated > 0 and self.messages > 1


class Shelf:
    """Conversations of all users in one file of JSON lines. Use it as a context manager.

    Args:
        path: file to write; it is removed at the end.
    """

    def __init__(self, path: Path):
        self.path = path
        self.users: dict[str, dict[tuple[str | int, ...], Entry]] = {}
        self._ids: set[tuple[str, ...]] = set()
        self._number = 0

    def __enter__(self) -> "Shelf":
        self._file = open(self.path, "w+b")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def put(self, user: str, file: str, draft: Draft, id: tuple[str, ...]) -> Entry | None:
        """Puts a conversation on the shelf.

        Args:
            user: the user's name.
            file: name of the file it is from.
            draft: the conversation; it has messages.
            id: what its other versions have in common; empty: it has none.

        Returns:
            The version that is left out: the one of the draft, or an earlier one; None if there is none.
        """
        self._number += 1
        said = draft.messages
        began = next((message.date for message in said if message.date), "")
        entry = Entry(file, self._number, began, draft.updated, said[-1].date, messages=len(said))
        entry.mapped, line = draft.mapped, _line(said)
        shelf = self.users.setdefault(user, {})
        key: tuple[str | int, ...] = (*id, hash((said[0].role, said[0].content))) if id else (self._number,)
        other = shelf.get(key)
        if other is None and id and (user, *id) in self._ids:
            draft.problem("another conversation has the same id; both are kept")
        if id:
            self._ids.add((user, *id))
        if other:
            mine, its = (entry.updated, entry.last, len(said)), (other.updated, other.last, other.messages)
            newer = (mine, line) > (its, self._read(other.offsets[0]))
            kept, left = (entry, other) if newer else (other, entry)
            draft.problem(f"it is there twice; the version in {kept.file} is kept: {_why(kept, left)}")
            if not newer:
                return entry
        entry.offsets.append(self._write(line))
        shelf[key] = entry
        return other

    def append(self, user: str, file: str, draft: Draft, key: tuple[str, ...]) -> None:
        """Puts a message of a log on the shelf; it continues the conversation of the same key."""
        self._number += 1
        entry = self.users.setdefault(user, {}).setdefault(key, Entry(file, self._number))
        date = draft.messages[0].date
        entry.offsets.append(self._write(_line(draft.messages)))
        entry.date = min(entry.date or date, date or entry.date)
        entry.undated += not date
        entry.messages += 1
        entry.mapped += draft.mapped

    def messages(self, user: str) -> Iterator[tuple[int, Said]]:
        """Yields (session, message) of a user: the conversations in time order, numbered from 1."""
        entries = sorted(self.users[user].values(), key=lambda entry: (entry.date, entry.number))
        for session, entry in enumerate(entries, start=1):
            offsets = entry.offsets
            if len(offsets) > 1 and not entry.in_order_of_file:
                offsets = sorted(offsets, key=lambda offset: self._said(offset)[0].date)
            for offset in offsets:
                for message in self._said(offset):
                    yield session, message

    def _write(self, line: bytes) -> int:
        offset = self._file.seek(0, 2)
        self._file.write(line)
        return offset

    def _read(self, offset: int) -> bytes:
        self._file.seek(offset)
        return self._file.readline()

    def _said(self, offset: int) -> list[Said]:
        return [Said(*message) for message in json.loads(self._read(offset))]


def _line(said: list[Said]) -> bytes:
    content = [[message.role, message.content, message.date] for message in said]
    return json.dumps(content).encode("ascii") + b"\n"


def _why(kept: Entry, left: Entry) -> str:
    """Why one of two versions is the later one."""
    if kept.updated != left.updated:
        return f"it was updated {kept.updated}, the other {left.updated or 'at an unknown time'}"
    if kept.last != left.last:
        return f"its last message is of {kept.last}, the other's of {left.last or 'an unknown time'}"
    if kept.messages != left.messages:
        return f"it has {kept.messages} messages, the other {left.messages}"
    return "both are of the same time and length"
