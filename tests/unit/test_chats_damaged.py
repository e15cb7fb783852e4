"""`rft chats import` of damaged and hostile exports: what is lost is counted and said, and nothing
leaves the folder.
"""

import io
import json
import random
from typing import Any

import pytest
from exports import (
    OPENAI,
    START,
    chatgpt,
    claude,
    node,
    raw,
    run,
    said,
    sharegpt,
    talk,
    texts,
    trip,
    write,
    write_zip,
)

from rft.cli import main
from rft.data.history import read_history
from rft.tasks.chats.draft import iso
from rft.tasks.chats.formats import FORMATS
from rft.tasks.chats.user_names import file_names
from rft.tasks.chats.values import Broken, values


def test_broken_branches(tmp_path, capsys):
    good = talk("good", START, "Hi", "Hello")
    missing = chatgpt(
        "missing",
        [node("root", None), node("a", "root", "user", "lost"), node("b", "gone", "user", "kept")],
        "b",
    )
    cycle = chatgpt("cycle", [node("a", "b", "user", "x"), node("b", "a", "assistant", "y")], "b")
    headless = talk("headless", START + 5, "Still", "here") | {"current_node": "nowhere"}
    odd = chatgpt("odd", [node("a", None, "user", "x", author=None)], "a")
    empty = chatgpt("empty", [], None)
    write(tmp_path / "a.json", [good, missing, cycle, headless, odd, empty, {"title": "x"}, None])
    record = run(tmp_path / "out", tmp_path / "a.json")
    assert [text for _, text in texts(tmp_path / "out", "a")] == ["Hi", "Hello", "kept", "Still", "here"]
    user = record["users"]["a"]
    assert user["conversations"]["dropped"] == {"empty": 1, "nothing left": 2}
    assert record["files"][0]["dropped"] == {"unknown format": 2}
    assert user["messages"]["dropped"] == {"broken branch": 3, "unknown role": 1}
    err = capsys.readouterr().err
    for line in (
        "item 2 (missing): the parent of 'b' does not exist; the messages after it are taken",
        "item 3 (cycle): its messages form a cycle, so they have no order",
        "item 4 (headless): current_node does not exist; the branch that ends in 'headless-1' is taken",
        "item 5 (odd): unknown role None",
        "item 6 (empty): an empty conversation",
        "item 7: expected ChatGPT export, found an object with the keys 'title'",
        "item 8: expected ChatGPT export, found a NoneType",
    ):
        assert f"a.json: {line}" in err


JUNK = [None, True, 0, -1, 1e308, "", "x", "\0", "\ud800", [], {}, [None], [[]], {"id": []}, {"": None}]


def spoilt(value: Any, rng: random.Random) -> Any:
    """The value with about one part in twenty replaced by something else, at any depth."""
    if rng.random() < 0.05:
        return rng.choice(JUNK)
    if isinstance(value, dict):
        return {key: spoilt(part, rng) for key, part in value.items() if rng.random() > 0.02}
    return [spoilt(part, rng) for part in value] if isinstance(value, list) else value


def number_of_messages(row: Any) -> int:
    """Counted without the code that imports them."""
    if "mapping" in row:
        return sum(
            isinstance(n, dict) and isinstance(n.get("message"), dict) for n in row["mapping"].values()
        )
    if "role" in row:
        return 1
    keys = ("chat_messages", "messages", "conversations")
    return len(row if isinstance(row, list) else next(row[key] for key in keys if key in row))


@pytest.mark.parametrize("name", FORMATS)
def test_spoilt_exports_never_stop_the_import_and_are_counted(tmp_path, name):
    tree = [said(id, "human", "Hi", parent_message_uuid=parent) for id, parent in ("ab", "ba", "ca", "dc")]
    document: Any = {
        "chatgpt": trip(),
        "claude": claude("c", "2024-05-01T10:00:00Z", tree),
        "openai": {"id": "c", "user": "u", "date": "2024-05-01", "messages": OPENAI},
        "sharegpt": sharegpt("s", "Hi", "Hello"),
        "messages": {"role": "user", "content": [{"type": "text", "text": "Hi"}], "user": "u", "session": 1},
    }[name]
    rng = random.Random(0)
    rows = [document] + [spoilt(document, rng) for _ in range(400)]
    record = run(tmp_path / "out", write(tmp_path / "a.jsonl", rows), "--format", name)
    users = record["users"].values()
    if name != "messages":
        counts = [user["conversations"] for user in users]
        no_chats = sum(record["files"][0]["dropped"].values())
        assert sum(c["kept"] + sum(c["dropped"].values()) for c in counts) + no_chats == len(rows)
    counts = [user["messages"] for user in users]
    there = sum(number_of_messages(row) for row in rows if FORMATS[name].matches(row))
    assert sum(c["kept"] + sum(c["dropped"].values()) for c in counts) == there
    kept = sum(user["messages"]["kept"] for user in users)
    read = [read_history(tmp_path / "out" / user["history"]) for user in users if "history" in user]
    assert kept == sum(len(history.messages) for history in read) > 0


def test_nul_bytes_and_half_characters(tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_bytes(
        b'[{"messages": [{"role": "user", "content": "a\\u0000b\x00c"}]},'
        b' {"messages": [{"role": "user", "content": "half \\ud83d, whole \\ud83d\\ude00, byte \xff"}]},'
        b' {"messages": [{"role": "user", "content": "last"}]}]'
    )
    record = run(tmp_path / "out", path)
    assert [t for _, t in texts(tmp_path / "out", "a")] == [
        "abc",
        "half \ufffd, whole \U0001f600, byte \ufffd",
        "last",
    ]
    assert record["users"]["a"]["messages"]["mapped"] == {
        "NUL bytes removed": 1,
        "bytes that are not UTF-8 replaced": 1,
        "half characters replaced": 1,
    }
    assert "a.json: item 1: NUL bytes removed" in capsys.readouterr().err


def test_a_latin_1_file_says_how_to_convert_it(tmp_path, capsys):
    text = json.dumps([sharegpt("s", "One café, please", "Voilà")], ensure_ascii=False)
    (tmp_path / "a.json").write_bytes(text.encode("latin1"))
    record = run(tmp_path / "out", tmp_path / "a.json")
    assert texts(tmp_path / "out", "a")[0] == ("user", "One caf\ufffd, please")
    assert record["users"]["a"]["messages"]["mapped"] == {"bytes that are not UTF-8 replaced": 2}
    assert (
        "a.json: item 1 (s): bytes that are not UTF-8 replaced; if the file is Latin-1, convert it with"
        " iconv -f latin1 -t utf-8 OLD > NEW and import that"
    ) in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_utf_16_file_says_how_to_convert_it(tmp_path, name, encoding, capsys):
    path = write(tmp_path / name, [sharegpt("s", "Hi", "Hello")])
    path.write_bytes(path.read_text().encode(encoding))
    assert main(["chats", "import", str(path), "--out", str(tmp_path / "out")]) == 2
    line = (
        "line 1: this is UTF-16, expected UTF-8; what follows cannot be read: convert it with iconv -f utf-16"
    )
    assert f"{name}: {line}" in capsys.readouterr().err


def test_a_broken_line_is_left_out_and_a_cut_list_says_what_is_lost(tmp_path, capsys):
    lines = [json.dumps(sharegpt(f"s{n}", f"Hi {n}", "Hello")) for n in range(3)]
    (tmp_path / "lines.jsonl").write_text("\n".join([lines[0], lines[1][:30], "", lines[2]]))
    record = run(tmp_path / "out", tmp_path / "lines.jsonl")
    assert record["users"]["lines"]["conversations"] == {"kept": 2, "dropped": {}}
    assert record["files"][0]["dropped"] == {"broken JSON": 1}
    shown = capsys.readouterr()
    assert "lines.jsonl: line 2: broken JSON (Expecting value)" in shown.err
    assert "conversations dropped: broken JSON 1" in shown.out

    (tmp_path / "cut.json").write_text(f"[{lines[0]}, {lines[1]}, {lines[2][:30]}")
    assert main(["chats", "import", str(tmp_path / "cut.json"), "--out", str(tmp_path / "cut")]) == 1
    assert len(texts(tmp_path / "cut", "cut")) == 4
    assert (
        "cut.json: item 3: broken JSON" in (err := capsys.readouterr().err)
        and "what follows cannot be read" in err
    )
    assert json.loads((tmp_path / "cut" / "import.json").read_text())["files"][0]["read_to_its_end"] is False


def test_a_broken_item_is_nobodys_and_a_lost_user_is_named(tmp_path, capsys):
    """A log of several users has no user of its own name."""
    rows: list[Any] = [sharegpt(user, "Hi", "Hello") | {"user": user} for user in ("ana", "bo")]
    rows[1]["conversations"] = [{"from": "narrator", "value": "Once upon a time"}]
    write(tmp_path / "log.jsonl", [*rows, {"title": "x"}])
    write(tmp_path / "cy.json", [{"messages": [{"role": "narrator", "content": "Hi"}]}])
    (tmp_path / "dan.json").write_text("[nothing]")
    files = [tmp_path / name for name in ("log.jsonl", "cy.json", "dan.json")]
    words = ["chats", "import", *map(str, files), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    record = json.loads((tmp_path / "out" / "import.json").read_text())
    assert list(record["users"]) == ["ana", "bo", "cy"]
    assert [file["dropped"] for file in record["files"]] == [{"unknown format": 1}, {}, {"broken JSON": 1}]
    err = capsys.readouterr().err
    assert "log.jsonl: no message of user bo is in a history" in err and "user ana" not in err
    assert all(f"{name}: no message of this file is in a history" in err for name in ("cy.json", "dan.json"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b"", "nothing in it"),
        ("a.json", b"Hello there", "line 1: this is not JSON"),
        ("a.json", b"\n\nHello there", "line 3: this is not JSON"),
        ("a.json", b"\xff\xfe[\x00]\x00", "line 1: this is UTF-16"),
        ("a.json", b"\xff\xfe", "line 1: this is not JSON"),
        (
            "a.json",
            b"[1, 2]",
            "item 1: expected one of the formats chatgpt, claude, sharegpt, openai, messages",
        ),
        ("a.json", b"[" * 100_000, "item 1: broken JSON"),
        ("a.json", b'{"messages": []}', "line 1: an empty conversation"),
        ("a.zip", b"PK\x03\x04 cut", "a broken zip"),
        ("a.csv", b"role,content\nuser,Hi\n", "line 1: this is not JSON"),
    ],
)
def test_what_is_no_chat_is_an_error_of_one_line(tmp_path, name, content, told, capsys):
    (tmp_path / name).write_bytes(content)
    assert main(["chats", "import", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and name in error and told in error
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_zip_is_read_and_never_extracted(tmp_path, capsys):
    export = json.dumps([talk("t", START, "Hi", "Hello")])
    zipped = write_zip(tmp_path / "ana.zip", {"../../x/conversations.json": export, "chat.html": "<html>"})
    before = set(tmp_path.rglob("*")) | set(tmp_path.parent.glob("x"))
    run(tmp_path / "out", zipped)
    made = {p.relative_to(tmp_path).as_posix() for p in set(tmp_path.rglob("*")) - before if p.is_file()}
    assert made == {"out/import.json", "out/histories/ana.json"} and not (tmp_path.parent / "x").exists()

    assert (
        main(
            [
                "chats",
                "import",
                str(write_zip(tmp_path / "no.zip", {"a.txt": ""})),
                "--out",
                str(tmp_path / "o"),
            ]
        )
        == 2
    )
    assert "no.zip: no conversations.json in this zip; it contains a.txt" in capsys.readouterr().err

    broken = bytearray(zipped.read_bytes())
    broken[80] ^= 0xFF  # in the compressed data
    (tmp_path / "bad.zip").write_bytes(broken)
    assert main(["chats", "import", str(tmp_path / "bad.zip"), "--out", str(tmp_path / "o")]) == 2
    assert "bad.zip: ../../x/conversations.json: cannot be read further" in capsys.readouterr().err


def test_dates_of_every_kind(tmp_path, capsys):
    assert iso(1714000000) == iso("1714000000.0") == iso(1714000000000) == iso("2024-04-24T23:06:40Z")
    assert iso("2024-04-24") == "2024-04-24T00:00:00" and iso("2024-04-25T01:06:40+02:00") == iso(1714000000)
    nonsense = [
        0,
        -5,
        1e300,
        float("nan"),
        float("inf"),
        True,
        "soon",
        "0001-01-01",
        "9999-12-31",
        [],
        {},
        "1" * 400,
    ]
    assert [iso(value) for value in nonsense] == [""] * len(nonsense)
    rows = [{"role": "user", "content": f"{n}", "date": value} for n, value in enumerate(nonsense)]
    record = run(tmp_path / "out", write(tmp_path / "a.jsonl", [{"messages": rows}]))
    mapped = record["users"]["a"]["messages"]["mapped"]["date left out: not a date"]
    assert mapped == len(nonsense) and not any("date" in m for m in raw(tmp_path / "out", "a"))
    assert "line 1: 'soon' is not a date; expected ISO 8601 or seconds since 1970" in capsys.readouterr().err


def test_dates_of_conversations_that_make_no_sense_are_counted(tmp_path, capsys):
    write(tmp_path / "a.json", [talk("t", START, "Hi") | {"create_time": "soon", "update_time": -5}])
    write(tmp_path / "b.json", [claude("c", "soon", [said("1", "human", "Hi")])])
    write(tmp_path / "c.json", [sharegpt("s", "Hi", date="soon")])
    record = run(tmp_path / "out", *(tmp_path / f"{name}.json" for name in "abc"), "--user", "ana")
    counts = {"conversation's date left out: not a date": 5}
    assert record["users"]["ana"]["messages"]["mapped"] == counts
    assert "messages changed: conversation's date left out: not a date 5" in capsys.readouterr().out


def test_user_names_never_leave_the_folder(tmp_path):
    users = [
        "../../etc/passwd",
        "a/b",
        "a_b",
        "Bob",
        "bob",
        ".hidden",
        "",
        "ünï",
        "x" * 500,
        "con\x1b[0m",
        "..",
    ]
    names = file_names(users)
    assert len({name.casefold() for name in names.values()}) == len(users)
    assert all(n and "/" not in n and not n.startswith(".") and len(n.encode()) < 200 for n in names.values())
    assert names["a_b"] == "a_b" and names["ünï"] == "ünï"
    rows = [{"messages": [{"role": "user", "content": "Hi"}], "user": user} for user in users]
    record = run(tmp_path / "out", write(tmp_path / "log.jsonl", rows))
    files = [user["history"] for user in record["users"].values()]
    assert len(files) == len(users) and all((tmp_path / "out" / file).is_file() for file in files)
    assert read_history(tmp_path / "out" / record["users"]["a/b"]["history"]).persona_id == "a/b"


@pytest.mark.parametrize("window", [1, 2, 7, 64, 1 << 20])
def test_values_are_read_alike_with_any_window(window):
    items = [
        {"a": ['say "hi" \\', "ü\U0001f600", -1.5e-7, True, None]},
        "text",
        12345,
        [[], {}],
        float("-inf"),
    ]
    listed = json.dumps(items, indent=1).encode()
    assert [value for _, value in values(io.BytesIO(b"\xef\xbb\xbf \n" + listed), window)] == items
    lines = b'{"a": 1}\n\n{"a": \n{"a": 3}\r\n'
    read = list(values(io.BytesIO(lines), window))
    assert [place for place, _ in read] == ["line 1", "line 3", "line 4"]
    assert isinstance(read[1][1], Broken) and not read[1][1].last and read[2][1] == {"a": 3}
    broken = list(values(io.BytesIO(b'[1, {"a" 2}, ' + b"3, " * 1000 + b"4]"), window))
    assert broken[0] == ("item 1", 1) and isinstance(broken[1][1], Broken) and len(broken) == 2
    pretty = json.dumps({"messages": [{"role": "user"}]}, indent=2).encode()
    assert [value for _, value in values(io.BytesIO(pretty), window)] == [json.loads(pretty)]
