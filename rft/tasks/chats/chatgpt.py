"""ChatGPT's export: `conversations.json`, or `conversations-000.json` and so on.

A conversation is a tree of nodes under `mapping`; edited questions and regenerated answers are branches. The
branch that ends in `current_node` is read, from its root. Instructions, tool calls and their output, the
model's reasoning, and what the page hid from the user are left out.
"""

from typing import Any

from rft.tasks.chats.branch import branch
from rft.tasks.chats.draft import Draft, iso, name_of, shown

NAME, TITLE = "chatgpt", "ChatGPT export"
REASONS = {
    "user_editable_context": "custom instructions",
    "model_editable_context": "custom instructions",
    "thoughts": "reasoning",
    "reasoning_recap": "reasoning",
    "execution_output": "tool output",
    "tether_quote": "tool output",
    "tether_browsing_display": "tool output",
    "system_error": "tool output",
}
"""Why a message of this content type is left out."""


def matches(document: Any) -> bool:
    """Whether a value of the file is a conversation of this format."""
    return isinstance(document, dict) and isinstance(document.get("mapping"), dict)


def read(document: Any, draft: Draft) -> None:
    """Reads a conversation into the draft."""
    draft.id = name_of(document.get("conversation_id")) or name_of(document.get("id"))
    draft.dated(document.get("create_time"), document.get("update_time"))
    nodes = {id: node for id, node in document["mapping"].items() if isinstance(node, dict)}
    spoken = {id: node["message"] for id, node in nodes.items() if isinstance(node.get("message"), dict)}
    if not spoken:
        return
    parents = {id: _hashable(node.get("parent")) for id, node in nodes.items()}
    leaf = document.get("current_node")
    if not isinstance(leaf, str) or leaf not in nodes:
        leaf = _latest(spoken, parents)
        draft.problem(f"current_node does not exist; the branch that ends in {shown(leaf)} is taken")
    for id in branch(leaf, parents, spoken.keys(), draft):
        if id in spoken:
            _say(spoken[id], draft)


def _say(message: dict[str, Any], draft: Draft) -> None:
    author, metadata, content = (message.get(key) for key in ("author", "metadata", "content"))
    metadata = metadata if isinstance(metadata, dict) else {}
    content = content if isinstance(content, dict) else {}
    kind = content.get("content_type")
    if isinstance(kind, str) and kind in REASONS:
        return draft.drop(REASONS[kind])
    role = draft.speaker(author.get("role") if isinstance(author, dict) else None)
    if role is None:
        return
    if message.get("weight") == 0 or metadata.get("is_visually_hidden_from_conversation"):
        return draft.drop("hidden")
    if role == "assistant" and message.get("recipient") not in (None, "all"):
        return draft.drop("tool call")
    text, changes = _text(content)
    if metadata.get("attachments"):
        changes.add("attachment left out")
    draft.say(role, text, message.get("create_time"), name_of(message.get("id")) or None, changes)


def _text(content: dict[str, Any]) -> tuple[str, set[str]]:
    """The text of a message, and what was changed or left out."""
    parts, texts = content.get("parts"), []
    changes: set[str] = set()
    if not isinstance(parts, list):
        return (content["text"] if isinstance(content.get("text"), str) else ""), changes
    for part in parts:
        kind = str(part.get("content_type", "")) if isinstance(part, dict) else ""
        if isinstance(part, str):
            texts.append(part)
        elif kind == "audio_transcription" and isinstance(part.get("text"), str):
            texts.append(part["text"])
            changes.add("transcript of speech taken as text")
        elif "image" in kind:
            changes.add("image left out")
        elif "audio" in kind or "video" in kind:
            changes.add("audio or video left out")
        else:
            changes.add("unknown part left out")
    return "\n".join(text for text in texts if text), changes


def _latest(messages: dict[str, dict[str, Any]], parents: dict[str, Any]) -> str:
    """The message nobody answered that was written last."""
    answered = set(parents.values())
    leaves = [id for id in messages if id not in answered] or list(messages)
    return max(reversed(leaves), key=lambda leaf: iso(messages[leaf].get("create_time")))


def _hashable(parent: Any) -> Any:
    return parent if isinstance(parent, str) or parent is None else shown(parent)
