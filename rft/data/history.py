"""Reads a chat history unchanged, message by message.

Invariant: no message is dropped, merged or reordered. Two consecutive user messages stay two messages, a
history may end with a user message, and the text of a message keeps all its white space. Only multimodal
content is converted to its text. A history that cannot be read this way is an error. Its `id` is a hash of
roles and contents, so equal ids mean equal conversations, even in files with different paths.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft.errors import DataError

ROLES = ("system", "user", "assistant")
IMAGE_PARTS = ("image_url", "image", "input_image")


@dataclass(frozen=True)
class Message:
    """One message: `role` is one of ROLES, `content` is plain text (possibly empty)."""

    role: str
    content: str


@dataclass(frozen=True)
class History:
    """One conversation with one person.

    id: 16 hex digits of the sha256 over the canonical JSON of [[role, content], ...].
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
    """Returns 16 hex digits of the sha256 over [[role, content], ...] as ASCII JSON without spaces."""
    canonical = json.dumps([[m.role, m.content] for m in messages], separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]


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
            f"{path}: not UTF-8 at byte {error.start}; write the chat history as UTF-8 JSON"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: broken JSON ({error}); write the file again, it may be incomplete"
        ) from None

    metadata: Any = {}
    if isinstance(document, dict):
        if "chat_history" not in document:
            raise DataError(
                f"{path}: no 'chat_history' key; expected an object with a list of messages under it"
            )
        document, metadata = document["chat_history"], document.get("metadata") or {}
    if not isinstance(document, list) or not document:
        raise DataError(f"{path}: 'chat_history' must be a list with at least one message")

    messages = tuple(_message(item, f"{path}: message {index}") for index, item in enumerate(document))
    persona_id = metadata.get("persona_id") if isinstance(metadata, dict) else None
    return History(
        id=history_id(messages),
        persona_id="" if persona_id is None else str(persona_id),
        path=str(path),
        messages=messages,
    )


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
    return Message(role, text)
