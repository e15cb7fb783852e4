"""Claude's export: `conversations.json`, a list of conversations with `chat_messages`.

Messages consist of content blocks; only text blocks are read, and the text that Claude extracted from an
attachment is added to its message. Newer exports contain every branch: if two messages have the same parent,
the branch of the last message is read. The user is the account's id.
"""

from collections import Counter
from typing import Any

from rft.tasks.chats.branch import branch
from rft.tasks.chats.draft import Draft, iso, name_of
from rft.tasks.chats.openai import only_objects

NAME, TITLE = "claude", "Claude export"
NO_PARENT = "00000000-0000-4000-8000-000000000000"
LEFT_OUT = {
    "thinking": "reasoning left out",
    "redacted_thinking": "reasoning left out",
    "tool_use": "tool call left out",
    "server_tool_use": "tool call left out",
    "tool_result": "tool output left out",
    "image": "image left out",
    "token_budget": "note of the app left out",
    "flag": "note of the app left out",
}


def matches(document: Any) -> bool:
    """Whether a value of the file is a conversation of this format."""
    return isinstance(document, dict) and isinstance(document.get("chat_messages"), list)


def read(document: Any, draft: Draft) -> None:
    """Reads a conversation into the draft."""
    draft.id = name_of(document.get("uuid"))
    draft.user = name_of(document.get("account"))
    draft.dated(document.get("created_at"), document.get("updated_at"))
    messages = only_objects(document["chat_messages"], draft)
    for message in _branch(messages, document.get("current_leaf_message_uuid"), draft):
        if role := draft.speaker(message.get("sender")):
            text, changes = _text(message)
            draft.say(role, text, message.get("created_at"), name_of(message.get("uuid")) or None, changes)


def _branch(messages: list[dict[str, Any]], leaf: Any, draft: Draft) -> list[dict[str, Any]]:
    """The messages of one branch; all of them if there are no branches."""
    parents = {
        message["uuid"]: message["parent_message_uuid"]
        for message in messages
        if isinstance(message.get("uuid"), str) and isinstance(message.get("parent_message_uuid"), str)
    }
    if len(parents) < len(messages) or max(Counter(parents.values()).values(), default=1) == 1:
        return messages
    if not isinstance(leaf, str) or leaf not in parents:
        leaf = max(reversed(messages), key=lambda message: iso(message.get("created_at")))["uuid"]
    by_id = {message["uuid"]: message for message in messages}
    return [by_id[id] for id in branch(leaf, parents, by_id.keys(), draft, {NO_PARENT})]


def _text(message: dict[str, Any]) -> tuple[str, set[str]]:
    """The text of a message, and what was changed or left out."""
    blocks = message.get("content")
    blocks = [block for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
    texts = [b["text"] for b in blocks if b.get("type") == "text" and isinstance(b.get("text"), str)]
    if not blocks and isinstance(message.get("text"), str):  # exports before 2024
        texts = [message["text"]]
    changes = {
        LEFT_OUT.get(str(block.get("type")), "unknown part left out")
        for block in blocks
        if block.get("type") != "text"
    }
    files = message.get("files")
    if isinstance(files, list) and files:
        changes.add("attachment left out")
    attachments = message.get("attachments")
    for attachment in attachments if isinstance(attachments, list) else []:
        text = attachment.get("extracted_content") if isinstance(attachment, dict) else None
        if isinstance(text, str) and text.strip():
            name = attachment.get("file_name") or "without a name"
            texts.append(f"[attachment {name}]\n{text}")
            changes.add("attachment's text added")
        else:
            changes.add("attachment left out")
    return "\n\n".join(text for text in texts if text.strip()), changes
