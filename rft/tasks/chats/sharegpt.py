"""ShareGPT: `{"conversations": [{"from": "human", "value": "..."}, ...]}`, as a list or JSON lines."""

from typing import Any

from rft.tasks.chats.draft import Draft, name_of, shown
from rft.tasks.chats.openai import conversation_of, date_of

NAME, TITLE = "sharegpt", "ShareGPT"
ROLES = {"human": "user", "user": "user"} | dict.fromkeys(
    ("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"
)
NOT_SPOKEN = {
    "system": "system message",
    "function_call": "tool call",
    "tool_call": "tool call",
    "tool": "tool output",
    "observation": "tool output",
    "function_response": "tool output",
    "tool_response": "tool output",
}


def matches(document: Any) -> bool:
    """Whether a value of the file is a conversation of this format."""
    turns = document.get("conversations") if isinstance(document, dict) else None
    return isinstance(turns, list) and all(isinstance(turn, dict) and "from" in turn for turn in turns)


def read(document: Any, draft: Draft) -> None:
    """Reads a conversation into the draft."""
    conversation_of(document, draft)
    for turn in document["conversations"]:
        role, text = turn["from"], turn.get("value")
        if isinstance(role, str) and role in ROLES:
            text = text if isinstance(text, str) else ""
            draft.say(ROLES[role], text, date_of(turn), name_of(turn.get("id")) or None)
        elif isinstance(role, str) and role in NOT_SPOKEN:
            draft.drop(NOT_SPOKEN[role])
        else:
            draft.problem(f"unknown role {shown(role)}")
            draft.drop("unknown role")
