"""Reads a chat history unchanged, message by message.

Invariant: no message is dropped, merged or reordered. Two consecutive user messages stay two messages, a
history may end with a user message, and the text of a message keeps all its white space. Only multimodal
content is converted to its text. A history that cannot be read this way is an error. Its `id` is a hash of
its messages, so equal ids mean equal conversations, even in files with different paths.

Dates, sessions and names, if given, are shown to the model (`headed`): a message begins with a line such as
"[session 3, Mon 2023-05-08 13:56]" if its day or its session is not that of the message before it, and then
with "Caroline: ", if it names its speaker.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rft.errors import DataError

ROLES = ("system", "user", "assistant")
RENAMED = {
    **dict.fromkeys(("timestamp", "created_at", "create_time", "created", "datetime", "time"), "date"),
    **dict.fromkeys(("session_id", "conversation_id", "thread_id"), "session"),
    **dict.fromkeys(("speaker", "author"), "name"),
}
"""Keys of other formats -> the key with which a model is shown this. Any other key is ignored."""
EXPORTS = "`rft chats import` reads exports and logs of chats"
IMAGE_PARTS = ("image_url", "image", "input_image")
HALF_PAIR = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, which no UTF-8 text contains
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        role: one of ROLES.
        content: plain text (possibly empty).
        name: name of the speaker; "" if not given.
        date: when it was written, in ISO 8601; "" if not given.
        session: number of the session; None if not given.
    """

    role: str
    content: str
    name: str = ""
    date: str = ""
    session: int | None = None


@dataclass(frozen=True)
class History:
    """One conversation with one person.

    id: see `history_id`.
    persona_id: "" if the file does not name a persona, or if files of equal content name different personas.
    """

    id: str
    persona_id: str
    path: str
    messages: tuple[Message, ...]

    @property
    def persona(self) -> Message | None:
        """The leading system message, which describes the person; None if there is none."""
        return self.messages[0] if self.messages[0].role == "system" else None

    @property
    def turns(self) -> tuple[Message, ...]:
        """The conversation without the persona message."""
        return self.messages[1:] if self.persona else self.messages


def history_id(messages: tuple[Message, ...]) -> str:
    """Returns 16 hex digits of the sha256 over [[role, content], ...] as ASCII JSON without spaces; a message
    with a name, date or session is [role, content, name, date, session]."""
    canonical = json.dumps(
        [
            [m.role, m.content] + [m.name, m.date, m.session] * (m != Message(m.role, m.content))
            for m in messages
        ],
        separators=(",", ":"),
    )
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]


def headed(message: Message, before: Message | None = None) -> str:
    """Returns the text of a message with its date, session and name, as the model is shown it after
    `before`."""
    new = before is None or (message.date[:10], message.session) != (before.date[:10], before.session)
    facts = [f"session {message.session}"] if message.session is not None else []
    facts += [shown_date(message.date)] if message.date else []
    head = f"[{', '.join(facts)}]\n" if facts and new else ""
    return head + (f"{message.name}: " if message.name else "") + message.content


def shown_date(date: str) -> str:
    """Returns an ISO 8601 date, or date and time, as prompts contain it: "Mon 2023-05-08 13:56"."""
    moment = datetime.fromisoformat(date)
    return f"{DAYS[moment.weekday()]} {moment:%Y-%m-%d}" + f" {moment:%H:%M}" * (
        len(date) > len("2023-05-08")
    )


def is_date(value: Any) -> bool:
    """Returns whether a value is a date in ISO 8601, such as "2023-05-08" or "2023-05-08T13:56"."""
    try:
        return isinstance(value, str) and value[4:5] == "-" and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def read_history(path: Path | str) -> History:
    """Reads a JSON file `{"chat_history": [{role, content}, ...], "metadata": {...}}`.

    `metadata` is optional. A plain list of messages is also accepted.

    Raises:
        DataError: if the file has another format; the message names the file, and the chat message by its
            index (from 0).
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot read this chat history: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {error.start}; write the chat history as UTF-8 JSON ({EXPORTS})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: broken JSON ({error}); expected one list of messages: write the file again if it is"
            f" incomplete ({EXPORTS})"
        ) from None

    metadata: Any = {}
    if isinstance(document, dict):
        if "chat_history" not in document:
            raise DataError(
                f"{path}: no 'chat_history' key; expected an object with a list of messages under it"
                f" ({EXPORTS})"
            )
        document, metadata = document["chat_history"], document.get("metadata") or {}
    if not isinstance(document, list) or not document:
        raise DataError(f"{path}: 'chat_history' must be a list with at least one message")

    messages = read_messages(document, f"{path}: ")
    persona_id = metadata.get("persona_id") if isinstance(metadata, dict) else None
    return History(
        id=history_id(messages),
        persona_id="" if persona_id is None else str(persona_id),
        path=str(path),
        messages=messages,
    )


def read_messages(items: list[Any], where: str) -> tuple[Message, ...]:
    """Reads a list of {role, content, name?, date?, session?}.

    Args:
        items: the list.
        where: the beginning of error messages.

    Raises:
        DataError: if an item has another format; the message names it by its index (from 0).
    """
    return tuple(_message(item, f"{where}message {index}") for index, item in enumerate(items))


def text_of(content: Any) -> str | None:
    """Returns the text of a message's content: a string unchanged, multimodal parts as their texts, one per
    line; None for any other type."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind not in IMAGE_PARTS:
            return None
    return "\n".join(texts)


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise DataError(f"{where}: expected an object with 'role' and 'content', found {type(item).__name__}")
    role = item.get("role")
    if role is None:
        keys = ", ".join(map(repr, item)) or "none"
        raise DataError(f"{where}: no 'role'; expected 'role' and 'content', found {keys} ({EXPORTS})")
    if role not in ROLES:
        to_do = {"developer": "; write it as system", "tool": "; leave it out", "function": "; leave it out"}
        raise DataError(
            f"{where}: unknown role {role!r}; expected one of {', '.join(ROLES)}{to_do.get(str(role), '')}"
        )
    text = text_of(item.get("content"))
    if text is None:
        advice = "; leave out a message that only calls tools" if item.get("tool_calls") else ""
        raise DataError(f"{where}: 'content' must be a string or a list of text and image parts{advice}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: the text contains half a surrogate pair; write the complete character"
        ) from None
    return Message(role, text, *_origin(item, where))


def _origin(item: dict[str, Any], where: str) -> tuple[str, str, int | None]:
    """Returns name, date and session of a message."""
    for key in item:
        if key in RENAMED and RENAMED[key] not in item:
            raise DataError(
                f"{where}: {key!r} would not be read; call it {RENAMED[key]!r}, or remove it ({EXPORTS})"
            )
    name, date, session = (item.get(key) for key in ("name", "date", "session"))
    if name is not None and not isinstance(name, str):
        raise DataError(f"{where}: 'name' must be a text")
    if date is not None and not is_date(date):
        raise DataError(f"{where}: 'date' must be ISO 8601, such as 2023-05-08 or 2023-05-08T13:56")
    if session is not None and (not isinstance(session, int) or isinstance(session, bool)):
        raise DataError(f"{where}: 'session' must be a whole number")
    return name or "", date or "", session
