"""A conversation while it is read from an export.

Invariant: every message of the export is said or dropped, and every drop and every change has a reason that
is counted. Texts that leave here are valid UTF-8 without NUL; dates are ISO 8601 in UTC, without an offset.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rft.data.history import HALF_PAIR
from rft.tasks.chats.roles import NOT_SPOKEN, SPOKEN
from rft.tasks.chats.values import NOT_UTF8

EARLIEST, LATEST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
MILLISECONDS = 1e11  # seconds since 1970 are below this until the year 5138
BYTES = "bytes that are not UTF-8 replaced"
LATIN_1 = "; if the file is Latin-1, convert it with iconv -f latin1 -t utf-8 OLD > NEW and import that"
LONGEST_NAME = 40
"""Characters of a name from the data (a role, a type) in a message to the user."""


@dataclass(frozen=True)
class Said:
    """One message: role "user" or "assistant", its text, and when it was said ("" if unknown)."""

    role: str
    content: str
    date: str


@dataclass
class Draft:
    """One conversation.

    Attributes:
        id: the conversation's id; "" if it has none.
        user: id of the user in the data; "" if it has none.
        date: when the conversation began; "" if unknown.
        updated: when the conversation was changed last; "" if unknown.
        messages: what was said, in order.
        dropped: number of messages left out, for each reason.
        mapped: number of messages taken with a change, for each reason.
        problems: what is wrong with the data, one text per kind.
        seen: ids of messages that have occurred.
    """

    id: str = ""
    user: str = ""
    date: str = ""
    updated: str = ""
    messages: list[Said] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    mapped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def say(
        self, role: str, content: str, date: Any = None, id: str | None = None, changes: Iterable[str] = ()
    ) -> None:
        """Adds a message, or drops it if it has no text or its id has occurred.

        Args:
            role: "user" or "assistant".
            content: the text.
            date: any form that `iso` reads; a message without a date has that of the message before it, or
                of the conversation.
            id: id of the message.
            changes: what was changed or left out in the message.
        """
        if id is not None and id in self.seen:
            self.problem(f"message id {shown(id)} occurs twice; the second message is left out")
            return self.drop("duplicate id")
        text, repairs = clean(content)
        if not text.strip():
            return self.drop(f"no text: {', '.join(sorted(changes))}" if changes else "empty")
        if id is not None:
            self.seen.add(id)
        when = self.when(date)
        for change in {*changes, *repairs}:
            self.mapped[change] += 1
        for repair in repairs:
            self.problem(repair + LATIN_1 * (repair == BYTES))
        latest = self.messages[-1].date if self.messages else self.date
        self.messages.append(Said(role, text, when or latest))

    def drop(self, reason: str, messages: int = 1) -> None:
        """Counts messages that are left out."""
        if messages:
            self.dropped[reason] += messages

    def speaker(self, role: Any) -> str | None:
        """Returns "user" or "assistant" for a role of the data; None for any other, whose message is
        dropped."""
        name = role.strip().casefold() if isinstance(role, str) else ""
        if name in NOT_SPOKEN:
            self.drop(NOT_SPOKEN[name])
        elif name not in SPOKEN:
            accepted = ", ".join([*SPOKEN, *NOT_SPOKEN])
            self.problem(f"unknown role {shown(role)}, so its messages are left out; roles are {accepted}")
            self.drop("unknown role")
        return SPOKEN.get(name)

    def problem(self, text: str) -> None:
        """Notes what is wrong with the data."""
        if text not in self.problems:
            self.problems.append(text)

    def dated(self, began: Any, updated: Any = None) -> None:
        """Notes when the conversation began and was changed last, in any form that `iso` reads."""
        change = "conversation's date left out: not a date"
        self.date, self.updated = self.when(began, change), self.when(updated, change)

    def when(self, value: Any, change: str = "date left out: not a date") -> str:
        """Returns the date in ISO 8601; "" if there is none, and if it makes no sense, which is counted as
        this change."""
        if value is None or value == "":
            return ""
        date = iso(value)
        if not date:
            self.problem(f"{shown(value)} is not a date; expected ISO 8601 or seconds since 1970")
            self.mapped[change] += 1
        return date


def clean(text: str) -> tuple[str, list[str]]:
    """Returns the text without NUL, half characters and bytes that are not UTF-8, and what was repaired."""
    repairs = []
    if "\0" in text:
        text = text.replace("\0", "")
        repairs.append("NUL bytes removed")
    if NOT_UTF8 in text:
        text = text.replace(NOT_UTF8, "\ufffd")
        repairs.append(BYTES)
    text, halves = HALF_PAIR.subn("\ufffd", text)
    if halves:
        repairs.append("half characters replaced")
    return text, repairs


def iso(value: Any) -> str:
    """Returns a date as YYYY-MM-DDTHH:MM:SS in UTC.

    Args:
        value: ISO 8601 text (without an offset: taken as UTC), or seconds or milliseconds since 1970.

    Returns:
        The date; "" if the value is no date between 1990 and 2100.
    """
    try:
        date = _moment(value)
        date = date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return date.replace(tzinfo=None).isoformat(timespec="seconds") if EARLIEST <= date < LATEST else ""


def _moment(value: Any) -> datetime:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return datetime.fromisoformat(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a date")
    return datetime.fromtimestamp(value / 1000 if abs(value) >= MILLISECONDS else value, UTC)


def name_of(value: Any) -> str:
    """Returns an id of the data as text: of a text or a number, or of an object with an id; else ""."""
    if isinstance(value, dict):
        value = value.get("id") or value.get("uuid") or value.get("name")
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return clean(str(value))[0].strip()


def shown(value: Any) -> str:
    """Returns a value of the data as it is shown in a message to the user, on one line."""
    text = ascii(value)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."
