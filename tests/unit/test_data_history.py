"""A history is read as it was, or refused with its file and message."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from dataset_folder import IRREGULAR_HISTORY, real_data, write_history

from rft.data.history import Message, read_history
from rft.errors import DataError


def write(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_messages_stay_as_they_were(tmp_path: Path) -> None:
    history = read_history(write_history(tmp_path, "7"))
    assert [m.role for m in history.messages] == [m["role"] for m in IRREGULAR_HISTORY]
    for message, original in zip(history.messages, IRREGULAR_HISTORY, strict=True):
        if isinstance(original["content"], str):
            assert message.content == original["content"]
    assert history.persona_id == "7"


def test_multimodal_content_becomes_its_text(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,some/path.jpg"}}
    two = [{"type": "text", "text": "first"}, picture, {"type": "text", "text": "second"}]
    messages = [{"role": "user", "content": two}, {"role": "user", "content": [picture]}]
    history = read_history(write(tmp_path / "h.json", {"chat_history": messages}))
    assert history.messages == (Message("user", "first\nsecond"), Message("user", ""))


def test_persona_and_turns(tmp_path: Path) -> None:
    history = read_history(write_history(tmp_path, "7"))
    assert history.persona == history.messages[0]
    assert history.turns == history.messages[1:]
    without = read_history(write_history(tmp_path, "8", IRREGULAR_HISTORY[1:]))
    assert without.persona is None
    assert without.turns == without.messages == history.turns


def test_id_is_a_hash_of_what_was_said(tmp_path: Path) -> None:
    said = [["user", "Hé"], ["assistant", "Yes"]]
    messages = [{"role": role, "content": content} for role, content in said]
    one = read_history(
        write(tmp_path / "one.json", {"chat_history": messages, "metadata": {"persona_id": 3}})
    )
    two = read_history(write(tmp_path / "two.json", messages))
    assert one.id == two.id
    assert one.id == hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()[:16]
    for changed in (
        [["user", "Hé "], said[1]],
        [["assistant", "Hé"], said[1]],
        said[:1],
        [["user", "HéYes"]],
    ):
        other = write(
            tmp_path / "other.json", [{"role": role, "content": content} for role, content in changed]
        )
        assert read_history(other).id != one.id


def test_keys_that_say_nothing_to_a_model_are_ignored(tmp_path: Path) -> None:
    message = {"role": "user", "content": "Hi", "date": "2024-01-01", "timestamp": 1.7e9, "refusal": None}
    assert read_history(write(tmp_path / "h.json", [message])).messages == (
        Message("user", "Hi", date="2024-01-01"),
    )


def test_metadata_may_be_missing(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    for document in ({"chat_history": messages}, {"chat_history": messages, "metadata": None}, messages):
        history = read_history(write(tmp_path / "h.json", document))
        assert history.persona_id == ""
        assert history.messages == (Message("user", "Hello"),)


GOOD = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ('{"chat_history": [{"role": "us', "broken JSON"),
        ("[" * 100_000, "broken JSON"),
        ("", "broken JSON"),
        ({"messages": [GOOD]}, "no 'chat_history'"),
        ({"chat_history": {}}, "list with at least one message"),
        ({"chat_history": []}, "list with at least one message"),
        ('"text"', "list with at least one message"),
        ([GOOD, GOOD, {"role": "tool", "content": "x"}], "user, assistant; leave it out"),
        ([GOOD, GOOD, {"role": "tool", "content": "x"}], "message 2: unknown role 'tool'"),
        ([{"role": "developer", "content": "x"}], "user, assistant; write it as system"),
        (
            [GOOD, {"role": "assistant", "content": None, "tool_calls": [{}]}],
            "leave out a message that only calls tools",
        ),
        ([{"role": ["user"], "content": "x"}], "message 0: unknown role"),
        ([GOOD, {"content": "x"}], "message 1: no 'role'; expected 'role' and 'content', found 'content'"),
        ([{"mapping": {}, "id": "x"}], "found 'mapping', 'id' (`rft chats import` reads exports"),
        (json.dumps(GOOD) + "\n" + json.dumps(GOOD), "(`rft chats import` reads exports and logs of chats)"),
        (
            [GOOD, GOOD | {"timestamp": "2024-01-01"}],
            "message 1: 'timestamp' would not be read; call it 'date'",
        ),
        ([GOOD | {"speaker": "Ana"}], "message 0: 'speaker' would not be read; call it 'name'"),
        ([GOOD | {"session_id": "1"}], "message 0: 'session_id' would not be read; call it 'session'"),
        ([GOOD, "Hello"], "message 1: expected an object"),
        ([GOOD, {"role": "user", "content": None}], "message 1: 'content'"),
        ([GOOD, {"role": "user"}], "message 1: 'content'"),
        ([GOOD, {"role": "user", "content": 3}], "message 1: 'content'"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "message 0: 'content'"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "message 0: 'content'"),
        ('[{"role": "user", "content": "\\ud83d"}]', "message 0: the text contains half a surrogate pair"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, document: Any, said: str) -> None:
    path = write(tmp_path / "broken.json", document)
    with pytest.raises(DataError) as error:
        read_history(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_not_text_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes('[{"role": "user", "content": "Café"}]'.encode("latin-1"))
    with pytest.raises(DataError, match="latin.json: not UTF-8 at byte"):
        read_history(tmp_path / "latin.json")
    with pytest.raises(DataError, match="absent.json: cannot read"):
        read_history(tmp_path / "absent.json")


def test_the_real_persona() -> None:
    path = next((real_data() / "personamem_v2_sample/data/chat_history_32k").glob("*.json"))
    history = read_history(path)
    roles = [m.role for m in history.messages]
    assert [roles.count(role) for role in ("system", "user", "assistant")] == [1, 147, 119]
    seconds = [i for i in range(1, len(roles)) if roles[i] == roles[i - 1] == "user"]
    assert len(seconds) == 27 and seconds[:3] == [8, 17, 24]
    assert all(history.messages[i - 1].content.startswith("Please forget") for i in seconds)
    assert roles[-1] == "user"
    assert history.persona is not None and len(history.persona.content) == 3683
    assert "image" not in history.messages[30].content and "base64" not in history.messages[30].content
    assert history.messages[245].content.endswith("\n")
    original = json.loads(path.read_text(encoding="utf-8"))["chat_history"]
    assert [m.content for i, m in enumerate(history.messages) if i != 30] == [
        m["content"] for i, m in enumerate(original) if i != 30
    ]
    assert history.messages[30].content == original[30]["content"][0]["text"]


def test_the_real_long_histories() -> None:
    histories = [read_history(path) for path in sorted((real_data() / "long_histories").glob("*.json"))]
    assert [h.persona_id for h in histories] == ["1", "18", "41"]
    assert [len(h.messages) for h in histories] == [348, 113, 220]
