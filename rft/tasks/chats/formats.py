"""The formats of chats, and which of them a file has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rft.tasks.chats import chatgpt, claude, lines, openai, sharegpt
from rft.tasks.chats.draft import Draft, shown


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: name on the command line.
        title: name in messages to the user.
        matches: whether a value of the file has the format.
        read: reads a value into a draft.
        single: whether a value is a single message of a conversation.
    """

    name: str
    title: str
    matches: Callable[[Any], bool]
    read: Callable[[Any, Draft], None]
    single: bool = False


FORMATS = {
    module.NAME: Format(module.NAME, module.TITLE, module.matches, module.read, module is lines)
    for module in (chatgpt, claude, sharegpt, openai, lines)
}


def detect(value: Any) -> Format | None:
    """Returns the format of a value of the file; None if it is none of ours."""
    return next((format for format in FORMATS.values() if format.matches(value)), None)


def described(value: Any) -> str:
    """Says what a value of no format is, for an error."""
    if isinstance(value, dict):
        return f"an object with the keys {shown(', '.join(map(str, value)))}"
    return f"a {type(value).__name__}"
