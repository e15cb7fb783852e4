"""OpenAI messages: `{"messages": [{"role", "content"}, ...]}` or a plain list of messages, per conversation.

Data sets call the list "conversation" or "conversations" as well.

`content` is a text, a list of parts, or null. Tool calls, their output and instructions (system, developer)
are left out: a history holds what the user and the assistant said.
"""

from typing import Any

from rft.tasks.chats.draft import Draft, name_of

NAME, TITLE = "openai", "OpenAI messages"
LISTS = ("messages", "conversation", "conversations")
IDS = ("conversation_id", "id", "uuid")
USERS = ("user_id", "user", "person")
DATES = ("date", "created_at", "create_time", "created", "timestamp")
TEXTS = ("text", "input_text", "output_text")


def matches(document: Any) -> bool:
    """Whether a value of the file is a conversation of this format."""
    return has_turns(_turns(document), "role")


def read(document: Any, draft: Draft) -> None:
    """Reads a conversation into the draft."""
    if isinstance(document, dict):
        conversation_of(document, draft)
    for turn in only_objects(_turns(document), draft):
        say(turn, name_of(turn.get("id")), draft)


def has_turns(turns: Any, key: str) -> bool:
    """Whether a value is a list of messages, of which at least one has the key; or an empty list."""
    return isinstance(turns, list) and (
        not turns or any(isinstance(turn, dict) and key in turn for turn in turns)
    )


def only_objects(turns: list[Any], draft: Draft) -> list[dict[str, Any]]:
    """Returns the messages of a list, and drops what is no object."""
    objects = [turn for turn in turns if isinstance(turn, dict)]
    draft.drop("not a message", len(turns) - len(objects))
    return objects


def _turns(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    return next((document[key] for key in LISTS if key in document), None)


def conversation_of(document: dict[str, Any], draft: Draft) -> None:
    """Reads the conversation's id, user and date."""
    draft.id = next((name for key in IDS if (name := name_of(document.get(key)))), "")
    draft.user = next((name for key in USERS if (name := name_of(document.get(key)))), "")
    draft.dated(date_of(document))


def date_of(document: dict[str, Any]) -> Any:
    """Returns the first date of a conversation or message; None if it has none."""
    return next((document[key] for key in DATES if document.get(key) is not None), None)


def say(turn: dict[str, Any], id: str, draft: Draft) -> None:
    """Adds one message to the draft, or drops it."""
    role = draft.speaker(turn.get("role"))
    if role is None:
        return
    calls = turn.get("tool_calls") or turn.get("function_call")
    text, changes = _text(turn)
    if calls and not text.strip():
        return draft.drop("tool call")
    if calls:
        changes.add("tool call left out")
    draft.say(role, text, date_of(turn), id or None, changes)


def _text(turn: dict[str, Any]) -> tuple[str, set[str]]:
    """The text of a message, and what was changed."""
    content = turn.get("content")
    changes: set[str] = set()
    if not content and isinstance(turn.get("refusal"), str):
        return turn["refusal"], {"refusal taken as text"}
    if isinstance(content, str):
        return content, changes
    texts = []
    for part in content if isinstance(content, list) else []:
        kind = str(part.get("type")) if isinstance(part, dict) else ""
        if isinstance(part, str):
            texts.append(part)
        elif kind in TEXTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
            changes.add("refusal taken as text")
        elif "image" in kind:
            changes.add("image left out")
        elif "audio" in kind:
            changes.add("audio or video left out")
        else:
            changes.add("unknown part left out")
    if content is not None and not isinstance(content, list):
        changes.add("unknown part left out")
    return "\n".join(texts), changes
