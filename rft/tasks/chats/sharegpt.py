"""ShareGPT: `{"conversations": [{"from": "human", "value": "..."}, ...]}`, as a list or JSON lines."""

from typing import Any

from rft.tasks.chats.draft import Draft, name_of
from rft.tasks.chats.openai import conversation_of, date_of, has_turns, only_objects

NAME, TITLE = "sharegpt", "ShareGPT"


def matches(document: Any) -> bool:
    """Whether a value of the file is a conversation of this format."""
    return isinstance(document, dict) and has_turns(document.get("conversations"), "from")


def read(document: Any, draft: Draft) -> None:
    """Reads a conversation into the draft."""
    conversation_of(document, draft)
    for turn in only_objects(document["conversations"], draft):
        if role := draft.speaker(turn.get("from")):
            text = turn.get("value")
            text = text if isinstance(text, str) else ""
            draft.say(role, text, date_of(turn), name_of(turn.get("id")) or None)
