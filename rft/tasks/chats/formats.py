"""The formats of chats, and which of them a file has."""

from types import ModuleType
from typing import Any

from rft.tasks.chats import chatgpt, claude, lines, openai, sharegpt
from rft.tasks.chats.draft import shown

FORMATS = {module.NAME: module for module in (chatgpt, claude, sharegpt, openai, lines)}
"""{name on the command line: module}. A module has a TITLE for messages to the user, and two functions:
`matches` says whether a value of the file has the format, and `read` reads such a value into a draft. A value
of `lines` is a single message; one of the others is a conversation."""


def detect(value: Any) -> ModuleType | None:
    """Returns the format of a value of the file; None if it is none of ours."""
    return next((format for format in FORMATS.values() if format.matches(value)), None)


def described(value: Any) -> str:
    """Says what a value of no format is, for an error."""
    if isinstance(value, dict):
        return f"an object with the keys {shown(', '.join(map(str, value)))}"
    return f"a {type(value).__name__}"
