"""Plain messages: one `{"role", "content"}` per line, or one list of them.

Messages with the same user and the same conversation id belong together; without ids, the messages of one
user are one conversation. They are in time order if all have a date, else in the order of the file.
"""

from typing import Any

from rft.tasks.chats.draft import Draft, name_of
from rft.tasks.chats.openai import USERS, say

NAME, TITLE = "messages", "plain messages"
CONVERSATIONS = ("conversation_id", "session_id", "thread_id", "session")


def matches(document: Any) -> bool:
    """Whether a value of the file is a message of this format."""
    return (
        isinstance(document, dict)
        and "role" in document
        and ("content" in document or "tool_calls" in document)
    )


def read(document: Any, draft: Draft) -> None:
    """Reads a message into the draft, whose id is that of the message's conversation."""
    draft.id = next((name for key in CONVERSATIONS if (name := name_of(document.get(key)))), "")
    draft.user = next((name for key in USERS if (name := name_of(document.get(key)))), "")
    id = name_of(document.get("id"))
    say(document, f"{id} of {draft.user} {draft.id}".strip() if id else "", draft)
