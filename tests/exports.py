"""Chat exports in the shape in which people get them, made by the tests."""

import json
import zipfile
from pathlib import Path
from typing import Any

from rft.cli import main
from rft.data.history import read_history

DAY = 86_400.0
START = 1_714_000_000.0  # 2024-04-24T23:06:40 UTC


def node(id: str, parent: str | None, role: str = "", text: str = "", **message: Any) -> dict[str, Any]:
    """A node of ChatGPT's tree; without a role, one without a message. `message` overrides its fields."""
    whole: dict[str, Any] | None = None
    if role:
        content = {"content_type": "text", "parts": [text]}
        whole = {
            "id": id,
            "author": {"role": role, "name": None, "metadata": {}},
            "create_time": START,
            "update_time": None,
            "content": content,
            "status": "finished_successfully",
            "end_turn": None,
            "weight": 1.0,
            "metadata": {},
            "recipient": "all",
            "channel": None,
        } | message
    return {"id": id, "message": whole, "parent": parent, "children": []}


def chatgpt(id: str, nodes: list[dict[str, Any]], current: str | None, **fields: Any) -> dict[str, Any]:
    """One conversation of ChatGPT's export."""
    mapping = {each["id"]: each for each in nodes}
    for each in nodes:
        if each["parent"] in mapping:
            mapping[each["parent"]]["children"].append(each["id"])
    return {
        "title": "A talk",
        "create_time": START,
        "update_time": START + 60,
        "mapping": mapping,
        "moderation_results": [],
        "current_node": current,
        "conversation_id": id,
        "is_archived": False,
        "default_model_slug": "gpt-4o",
        "id": id,
    } | fields


def talk(id: str, at: float, *texts: str) -> dict[str, Any]:
    """A conversation of ChatGPT without branches; the texts are the user's and the assistant's in turn."""
    nodes = [node("root", None)]
    for n, text in enumerate(texts):
        role = ("user", "assistant")[n % 2]
        nodes.append(node(f"{id}-{n}", nodes[-1]["id"], role, text, create_time=at + 10 * n))
    return chatgpt(id, nodes, nodes[-1]["id"], create_time=at)


def trip(id: str = "trip", at: float = START) -> dict[str, Any]:
    """A conversation of ChatGPT with everything an export contains beside texts: 4 messages stay of 14."""
    image = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-1", "width": 8}
    speech = {"content_type": "audio_transcription", "text": "And I am afraid of flying.", "direction": "in"}
    sound = {"content_type": "audio_asset_pointer", "asset_pointer": "sediment://file-2", "format": "wav"}
    hidden = {"is_visually_hidden_from_conversation": True}
    about = {"content_type": "user_editable_context", "user_profile": "I am Ana.", "user_instructions": ""}
    thoughts = {"content_type": "thoughts", "thoughts": [{"summary": "Trains", "content": "..."}]}
    code = {"content_type": "code", "language": "unknown", "text": 'search("night trains")'}
    found = {"content_type": "tether_browsing_display", "result": "...", "summary": None}
    return chatgpt(
        id,
        [
            node("root", None),
            node("sys", "root", "system", "", weight=0.0, metadata=hidden),
            node("about", "sys", "user", content=about, metadata=hidden),
            node("old", "about", "user", "Plan a trip to Rome."),
            node("old-answer", "old", "assistant", "By plane, then."),
            node("q1", "about", "user", "Plan a trip to Vienna. I eat no meat.", create_time=at),
            node("worse", "q1", "assistant", "Try the schnitzel.", create_time=at + 3),
            node("think", "q1", "assistant", content=thoughts, create_time=at + 4),
            node("call", "think", "assistant", content=code, recipient="web", create_time=at + 5),
            node("tool", "call", "tool", content=found, create_time=at + 6),
            node("a1", "tool", "assistant", "Take the night train.", create_time=at + 7),
            node(
                "q2",
                "a1",
                "user",
                content={
                    "content_type": "multimodal_text",
                    "parts": [image, "This is our hotel.", speech, sound],
                },
                create_time=at + 70,
                metadata={"attachments": [{"id": "file-1", "name": "hotel.png"}]},
            ),
            node("blank", "q2", "assistant", "", create_time=at + 71),
            node("nudge", "blank", "user", "(go on)", create_time=at + 72, weight=0.0),
            node("a2", "nudge", "assistant", "Lovely! It is near the station.", create_time=None),
        ],
        "a2",
        create_time=at,
    )


def claude(id: str, at: str, messages: list[dict[str, Any]], account: str = "acc-1") -> dict[str, Any]:
    """One conversation of Claude's export."""
    return {
        "uuid": id,
        "name": "A talk",
        "summary": "",
        "created_at": at,
        "updated_at": at,
        "account": {"uuid": account},
        "chat_messages": messages,
    }


def said(id: str, sender: str, *blocks: str | dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A message of Claude's export; texts become text blocks."""
    content = [
        {"start_timestamp": None, "stop_timestamp": None, "type": "text", "text": block, "citations": []}
        if isinstance(block, str)
        else block
        for block in blocks
    ]
    return {
        "uuid": id,
        "text": "\n".join(block["text"] for block in content if block["type"] == "text"),
        "content": content,
        "sender": sender,
        "created_at": "2024-05-01T10:00:00.123456Z",
        "updated_at": "2024-05-01T10:00:00.123456Z",
        "attachments": [],
        "files": [],
    } | fields


def sharegpt(id: str, *texts: str, **fields: Any) -> dict[str, Any]:
    """One conversation of ShareGPT; the texts are the user's and the assistant's in turn."""
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": id, "conversations": turns} | fields


def write(path: Path, document: Any) -> Path:
    """Writes a JSON file, or JSON lines if the name ends in .jsonl."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in document))
    else:
        path.write_text(json.dumps(document))
    return path


def write_zip(path: Path, files: dict[str, str]) -> Path:
    """Writes a zip of texts."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def run(out: Path, *words: object) -> dict:
    """Imports, and returns import.json."""
    assert main(["chats", "import", *map(str, words), "--out", str(out)]) == 0
    return json.loads((out / "import.json").read_text())


def texts(out: Path, user: str) -> list[tuple[str, str]]:
    history = read_history(out / "histories" / f"{user}.json")
    return [(message.role, message.content) for message in history.messages]


def raw(out: Path, user: str) -> list[dict]:
    return json.loads((out / "histories" / f"{user}.json").read_text())["chat_history"]


OPENAI = [
    {"role": "developer", "content": "Be brief."},
    {"role": "system", "content": "Be kind."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Book"}, {"type": "image_url", "image_url": {"url": "x"}}],
    },
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
    {"role": "tool", "tool_call_id": "1", "content": "booked"},
    {"role": "assistant", "content": None, "refusal": "I cannot."},
    {"role": "assistant", "content": "Done.", "tool_calls": [{"id": "2"}]},
    {"role": "narrator", "content": "Later."},
    {"role": "user", "content": None},
]
