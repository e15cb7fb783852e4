"""`rft chats import` of folders and zips: every file in them is read, or left out by name."""

import json

import pytest
from exports import START, run, sharegpt, talk, texts, write, write_zip

from rft.cli import main

EXPORT = [talk("t", START, "Hi", "Hello")]
OTHERS = ("message_feedback.json", "projects.json", "user.json")


@pytest.fixture
def exports(tmp_path):
    """A folder per user, of which one holds a whole export, and files of other kinds."""
    top = tmp_path / "e3"
    for user in ("ana", "bob"):
        (top / user).mkdir(parents=True)
        write(top / user / "conversations.json", EXPORT)
    for name in OTHERS:
        write(top / "ana" / name, [{"id": 1}])
    (top / "ana" / "images").mkdir()
    for n in range(100):
        (top / "ana" / "images" / f"{n}.png").write_text("")
    (top / "ana" / "chat.html").write_text("<html>")
    (top / "notes.ndjson").write_text(json.dumps(sharegpt("s", "Hey", "Hello")))
    (top / "old.jsonl.gz").write_bytes(b"\x1f\x8b")
    (top / ".cache").mkdir()
    write(top / ".cache" / "hidden.json", EXPORT)
    return top


def test_a_folder_of_folders_is_read_and_what_is_left_out_is_named(tmp_path, exports, capsys):
    (tmp_path / "outside").mkdir()
    write(tmp_path / "outside" / "conversations.json", EXPORT)
    (exports / "carl").symlink_to(tmp_path / "outside")
    record = run(tmp_path / "out", exports)
    assert list(record["users"]) == ["ana", "bob", "notes"]
    assert texts(tmp_path / "out", "bob") == [("user", "Hi"), ("assistant", "Hello")]
    left_out = [(left["files"], left["reason"].split(";")[0]) for left in record["left_out"]]
    assert left_out == [
        ([f"ana/{name}" for name in OTHERS], "beside conversations.json"),
        (["carl"], "not a plain file"),
        (["old.jsonl.gz"], "compressed"),
        (["1 .html", "100 .png"], "no JSON"),
    ]
    err = capsys.readouterr().err
    assert f"{exports}: left out ana/{', ana/'.join(OTHERS)}: beside conversations.json; if one" in err
    assert f"{exports}: left out old.jsonl.gz: compressed; unpack with gunzip first" in err
    assert f"{exports}: left out 1 .html, 100 .png: no JSON" in err


def test_an_import_into_its_own_source_is_not_read_again(tmp_path, exports):
    out = exports / "chats"
    record = run(out, exports)
    assert run(out, exports) == record and list(record["users"]) == ["ana", "bob", "notes"]


def test_a_zip_is_as_a_folder(tmp_path, exports, capsys):
    files = {
        path.relative_to(exports).as_posix(): path.read_text(errors="replace")
        for path in exports.rglob("*")
        if path.is_file() and path.parts[-2] in ("ana", "bob")
    }
    record = run(tmp_path / "out", write_zip(tmp_path / "all.zip", files))
    assert list(record["users"]) == ["ana", "bob"]
    assert [left["files"] for left in record["left_out"]] == [
        sorted(f"ana/{name}" for name in OTHERS),
        ["1 .html"],
    ]
    assert "all.zip: left out" in capsys.readouterr().err
    export = {"data/conversations.json": json.dumps(EXPORT), "data/user.json": "{}"}
    inside = tmp_path / "zips"
    inside.mkdir()
    record = run(tmp_path / "two", write_zip(inside / "eve.zip", export).parent)
    assert list(record["users"]) == ["eve"]
    assert record["left_out"][0]["files"] == ["eve.zip: data/user.json"]


def test_names_of_files_left_out_have_no_private_items(tmp_path):
    folder = tmp_path / "ana"
    folder.mkdir()
    write(folder / "conversations.json", EXPORT)
    write(folder / "bob@corp.io.json", {})
    run(tmp_path / "out", folder, "--replace-private")
    assert "corp.io" not in (tmp_path / "out" / "import.json").read_text()


def test_compressed_files_alone_are_an_error_that_says_what_to_do(tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    packed = tmp_path / "logs" / "a.jsonl.gz"
    packed.write_bytes(b"\x1f\x8b")
    for source, told in ((packed, packed), (packed.parent, "a.jsonl.gz")):
        assert main(["chats", "import", str(source), "--out", str(tmp_path / "out")]) == 2
        assert f"{told}: compressed; unpack with gunzip first" in capsys.readouterr().err
