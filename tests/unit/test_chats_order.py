"""`rft chats import`: the order of messages and conversations, and which of two versions is kept."""

import json
from pathlib import Path

import pytest
from exports import DAY, START, claude, raw, run, said, sharegpt, talk, texts, write, write_zip


@pytest.mark.parametrize("name", ["log.jsonl", "log.json"])
def test_messages_of_a_log_are_in_time_order_if_all_have_a_date(tmp_path, name, capsys):
    dates = ["2023-11-01", "2024-11-01", "2023-07-01", "2023-11-01"]
    rows = [
        {"role": "user", "content": f"{user} {n}", "user": user, "date": date}
        for user in ("ana", "bo")
        for n, date in enumerate(dates)
    ]
    rows[-1]["date"] = None
    record = run(tmp_path / "out", write(tmp_path / name, rows))
    assert [text[-1] for _, text in texts(tmp_path / "out", "ana")] == ["2", "0", "3", "1"]
    assert [text[-1] for _, text in texts(tmp_path / "out", "bo")] == ["0", "1", "2", "3"]
    line = "in 1 conversation, not every message has a date: its messages stay in the order of the file"
    assert record["files"][0]["problems"] == [line] and f"{name}: {line}" in capsys.readouterr().err


def test_conversations_of_a_log_are_placed_by_their_earliest_message(tmp_path):
    said = [("a", "2024-05-02"), ("b", "2024-05-01"), ("a", "2024-04-01")]
    rows = [{"role": "user", "content": day, "session": session, "date": day} for session, day in said]
    run(tmp_path / "out", write(tmp_path / "ana.jsonl", rows))
    found = [(m["session"], m["content"]) for m in raw(tmp_path / "out", "ana")]
    assert found == [(1, "2024-04-01"), (1, "2024-05-02"), (2, "2024-05-01")]


VERSIONS = {
    "ChatGPT, by update": [
        talk("c", START, "Hi", "Hello", "Bye", "Bye") | {"update_time": START + DAY},
        talk("c", START, "Hi", "Hi there") | {"update_time": START + 2 * DAY},
        "it was updated 2024-04-26T23:06:40, the other 2024-04-25T23:06:40",
    ],
    "ChatGPT, without an update": [
        talk("c", START, "Hi", "Hello", "Bye", "Bye") | {"update_time": None},
        talk("c", START, "Hi", "Hi there") | {"update_time": START},
        "it was updated 2024-04-24T23:06:40, the other at an unknown time",
    ],
    "ChatGPT, by last message": [
        talk("c", START, "Hi", "Hello", "Bye", "Bye"),
        talk("c", START + DAY, "Hi", "Hi there"),
        "its last message is of 2024-04-25T23:06:50, the other's of 2024-04-24T23:07:10",
    ],
    "Claude, by update": [
        claude("c", "2024-05-01", [said("1", "human", "Hi"), said("2", "assistant", "Hello")]),
        claude("c", "2024-05-01", [said("1", "human", "Hi")]) | {"updated_at": "2024-06-01"},
        "it was updated 2024-06-01T00:00:00, the other 2024-05-01T00:00:00",
    ],
    "ShareGPT, by length": [
        sharegpt("c", "Hi", "Hello"),
        sharegpt("c", "Hi", "Hi there", "Bye"),
        "it has 3 messages, the other 2",
    ],
    "ShareGPT, of the same length": [
        sharegpt("c", "Hi", "Hello"),
        sharegpt("c", "Hi", "Hi there"),
        "both are of the same time and length",
    ],
}


@pytest.mark.parametrize("name", VERSIONS)
def test_the_later_version_is_kept_in_any_order(tmp_path, name):
    older, newer, why = VERSIONS[name]
    files = [write(tmp_path / "older.json", [older]), write(tmp_path / "newer.json", [newer])]
    said = []
    for order in (files, files[::-1]):
        out = tmp_path / f"by_{order[0].stem}"
        record = run(out, *order, "--user", "ana")
        said += [problem for file in record["files"] for problem in file["problems"]]
        said.append((out / "histories" / "ana.json").read_bytes())
        kept = {Path(file["file"]).stem: file["users"]["ana"] for file in record["files"]}
        assert kept["older"]["conversations"] == {"kept": 0, "dropped": {"duplicate id": 1}}
        assert kept["newer"]["conversations"] == {"kept": 1, "dropped": {}}
    assert said[:2] == said[2:]
    assert said[0] == f"item 1 (c): it is there twice; the version in {files[1]} is kept: {why}"


def test_versions_of_two_conversations_with_one_id(tmp_path):
    """Of each the later version is kept, whatever lies between the versions."""
    rows = [sharegpt("c", first, *more) for first, more in (("Tea", []), ("Jazz", []), ("Jazz", ["a", "b"]))]
    for n, order in enumerate([(0, 1, 2), (1, 0, 2), (2, 1, 0)]):
        run(tmp_path / f"{n}", write(tmp_path / "ana.jsonl", [rows[i] for i in order]))
        assert sorted(text for _, text in texts(tmp_path / f"{n}", "ana")) == ["Jazz", "Tea", "a", "b"]


def test_several_exports_of_one_person(tmp_path):
    """The later version of a conversation replaces the earlier one, whichever comes first."""
    for name, turns in (("may", 4), ("june", 6), ("april", 2)):
        export = [talk("same", START, *[f"line {n}" for n in range(turns)])]
        write_zip(tmp_path / f"{name}.zip", {"conversations.json": json.dumps(export)})
    other = write(tmp_path / "ana.jsonl", [sharegpt("s", "Hi", "Hello", date="2023-01-01")])
    zips = [tmp_path / f"{name}.zip" for name in ("may", "june", "april")]
    record = run(tmp_path / "out", *zips, other, "--user", "ana")
    assert len(texts(tmp_path / "out", "ana")) == 8 and raw(tmp_path / "out", "ana")[0]["content"] == "Hi"
    user = record["users"]["ana"]
    assert user["conversations"] == {"kept": 2, "dropped": {"duplicate id": 2}}
    assert user["messages"]["dropped"] == {"conversation with a duplicate id": 6}
    assert [f["users"]["ana"]["messages"]["kept"] for f in record["files"]] == [0, 6, 0, 2]


def test_an_id_of_two_conversations_loses_neither(tmp_path, capsys):
    rows = [sharegpt("0", "I like tea.", "Ok."), sharegpt("0", "I like jazz.", "Ok.")]
    record = run(tmp_path / "out", write(tmp_path / "a.jsonl", rows))
    assert [m["session"] for m in raw(tmp_path / "out", "a")] == [1, 1, 2, 2]
    assert record["users"]["a"]["messages"]["dropped"] == {}
    assert "line 2 (0): another conversation has the same id; both are kept" in capsys.readouterr().err
