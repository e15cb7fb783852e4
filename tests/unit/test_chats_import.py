"""`rft chats import` as a command: again, into a folder of others, bounded memory, interruption, the page."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from exports import DAY, START, run, talk, texts, trip, write, write_zip

from rft.cli import main


def test_the_same_import_again_changes_nothing_and_another_is_refused(tmp_path, capsys):
    source, out = write(tmp_path / "a.json", [talk("t", START, "Hi", "Hello")]), tmp_path / "out"
    run(out, source)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.rglob("*.json")}
    (out / "a.md").write_text("my memory")
    run(out, source)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.rglob("*.json")} == before
    assert "1 history, unchanged" in capsys.readouterr().out

    write(source, [talk("t", START, "Hi", "Hello", "More")])
    words = ["chats", "import", str(source), "--out", str(out)]
    assert main(words) == 2 and "contains another import; nothing was changed" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 2 and "also contains a.md" in capsys.readouterr().err
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.rglob("*.json")} == before
    (out / "a.md").unlink()
    assert main([*words, "--overwrite"]) == 0 and len(texts(out, "a")) == 3
    assert not list(tmp_path.glob(".out*"))


def test_a_folder_of_something_else_is_never_touched(tmp_path, capsys):
    source = write(tmp_path / "a.json", [talk("t", START, "Hi", "Hello")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    words = ["chats", "import", str(source), "--out", str(tmp_path / "out"), "--overwrite"]
    assert main(words) == 2 and "contains something else than imported chats" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def write_large(path: Path, size: int) -> None:
    """A ChatGPT export of about `size` bytes, written piece by piece."""
    with open(path, "w") as file:
        n, separator = 0, "["
        while file.tell() < size:
            said = [f"I like tea number {n}. " * 40, "Noted. " * 60] * 3
            file.write(separator + json.dumps(talk(f"c{n}", START + n * 60, *said)))
            n, separator = n + 1, ",\n"
        file.write("]")


MEASURE = """
import re, sys
from rft.cli import main
main(["chats", "import", sys.argv[1], "--out", sys.argv[2]])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())  # ru_maxrss has the parent's, too
print("peak", int(peak[1]) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path, repository):
    def peak(size: int) -> int:
        path = tmp_path / f"of_{size}.json"
        write_large(path, size)
        words = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / f"out_{size}")]
        done = subprocess.run(words, capture_output=True, text=True, cwd=repository, check=True)
        return int(done.stdout.rsplit("peak ", 1)[1])

    small, large = 4 * 10**6, 30 * 10**6
    few, many = peak(small), peak(large)
    print(f"4 MB: {few / 2**20:.1f} MiB, 30 MB: {many / 2**20:.1f} MiB")
    assert many - few < (large - small) / 4


def test_an_interrupted_import_leaves_nothing(tmp_path, repository):
    write_large(tmp_path / "a.json", 10 * 10**6)
    words = [sys.executable, "-m", "rft.cli", "chats", "import", str(tmp_path / "a.json")]
    for stop, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = subprocess.Popen(
            [*words, "--out", str(tmp_path / "out")],
            cwd=repository,
            stderr=subprocess.PIPE,
            # a shell that starts the tests in the background ignores SIGINT for all its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        shelf = tmp_path / ".out.partial" / "shelf.jsonl"
        while not (shelf.exists() and shelf.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(stop)
        assert process.wait() == code and not (tmp_path / "out").exists()
        assert (stop == signal.SIGKILL) == (tmp_path / ".out.partial").exists()
    run(tmp_path / "out", tmp_path / "a.json")
    assert not list(tmp_path.glob(".out*")) and (tmp_path / "out" / "histories" / "a.json").exists()


def test_every_command_of_the_page_works(tmp_path, repository, tiny_checkpoint, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("ana", "data"):
        export = [trip(), talk("t", START + 14 * DAY, "Write to ana@corp.com.", "Ok.", "I moved.", "Nice.")]
        write_zip(tmp_path / f"{name}.zip", {"conversations.json": json.dumps(export)})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").symlink_to(tiny_checkpoint)
    small = {"write": ["--memory-tokens", "24"], "answer": ["--max-new-tokens", "8"]}
    page = (repository / "docs" / "your_chats.md").read_text()
    commands = re.findall(r"^rft (.+)$", page, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command)
        assert main(words + small.get(words[1], [])) == 0, capsys.readouterr().err
    assert main(["chats", "import", "ana.zip", "data.zip", "--user", "ana", "--out", "both"]) == 0
    assert "rft chats import ana.zip data.zip --user ana --out chats" in page
    table = page.split("```text\n")[1].splitlines()[1].split()
    user = json.loads((tmp_path / "chats" / "import.json").read_text())["users"]["ana"]
    messages = user["messages"]
    changed, dropped = (sum(messages[key].values()) for key in ("mapped", "dropped"))
    numbers = [user["conversations"]["kept"], messages["kept"], changed, dropped, 1]
    assert table == ["ana", *map(str, numbers), user["first"][:10], user["last"][:10]]
