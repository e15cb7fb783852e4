"""A memory on disk is never lost: whole at every moment, the version before kept, one writer at a time,
resumed at its chunk."""

import json
import multiprocessing

import pytest
from transformers import AutoTokenizer

from rft import files
from rft.cli import main
from rft.data.history import History, Message, history_id
from rft.errors import DataError
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.memory.store import MemoryStore, read_record
from rft.memory.write import write


def history(count: int, start: str = "message") -> History:
    told = tuple(Message("user", f"{start} {i}: I was listening to jazz number {i}.") for i in range(count))
    return History(history_id(told), "", "chat.json", told)


@pytest.fixture(scope="module")
def agent(tiny_checkpoint):
    return MemoryAgent(AutoTokenizer.from_pretrained(tiny_checkpoint), MemorySettings(60, 400))


class Scribe:
    """Writes one bullet more than the memory in its prompt has; stops with Ctrl-C at its `stop`-th update."""

    def __init__(self, agent: MemoryAgent, stop: int | None = None):
        self.agent, self.stop, self.prompts = agent, stop, []

    def __call__(self, prompts, longest):
        if self.stop is not None and len(self.prompts) >= self.stop:
            raise KeyboardInterrupt
        self.prompts += prompts
        out = []
        for prompt in prompts:
            shown = self.agent.tokenizer.decode(prompt)
            count = sum(line.startswith("- ") for line in shown.splitlines())
            text = "\n".join(f"- Thing {i}" for i in range(count + 1))
            out.append([*self.agent.tokenizer(text)["input_ids"], self.agent.tokenizer.eos_token_id])
        return out


def run(agent, path, of, scribe, writer=None):
    with MemoryStore(path, writer or {}) as kept:
        return list(write(agent, scribe, [agent.tokenizer.eos_token_id], [(of, kept)]))


def test_stopped_and_resumed_it_ends_with_the_same_memory(agent, tmp_path):
    of = history(40)
    run(agent, tmp_path / "whole.md", of, Scribe(agent))
    total = len(agent.chunks(of))
    assert total > 4
    with pytest.raises(KeyboardInterrupt):
        run(agent, tmp_path / "m.md", of, Scribe(agent, stop=2))
    assert len(read_record(tmp_path / "m.md").chunks) == 2
    rest = Scribe(agent)
    turns = run(agent, tmp_path / "m.md", of, rest)
    assert [turn.number for turn in turns] == list(range(3, total + 1))
    assert (
        (tmp_path / "m.md").read_text()
        == (tmp_path / "whole.md").read_text()
        == "\n".join(f"- Thing {i}" for i in range(total)) + "\n"
    )
    one, other = (read_record(tmp_path / name) for name in ("m.md", "whole.md"))
    assert one == other and one.finished
    assert run(agent, tmp_path / "m.md", of, Scribe(agent, stop=0)) == []  # nothing is read twice


def test_the_version_with_which_a_reading_began_is_kept(agent, tmp_path):
    path, previous = tmp_path / "m.md", tmp_path / "m.previous.md"
    run(agent, path, history(40), Scribe(agent))
    assert not previous.exists()  # there was no memory before
    first = path.read_text()
    assert len(run(agent, path, history(80), Scribe(agent))) > 1
    assert previous.read_text() == first != path.read_text()


@pytest.mark.parametrize("known", [True, False])
def test_what_the_user_wrote_is_kept_through_every_chunk(agent, tmp_path, known, capsys):
    """Also if the reading is interrupted, and if no update here wrote the file."""
    path, previous = tmp_path / "m.md", tmp_path / "m.previous.md"
    if known:
        run(agent, path, history(40), Scribe(agent))
    path.write_text("- precious: my own edit\n")
    with pytest.raises(KeyboardInterrupt):
        run(agent, path, history(120), Scribe(agent, stop=2))
    run(agent, path, history(120), Scribe(agent))
    assert "precious" not in path.read_text()
    assert previous.read_text() == "- precious: my own edit\n"
    edits = [turn.edited for turn in read_record(path).turns if turn.edited is not None]
    assert edits == ["- precious: my own edit"]
    assert main(["memory", "show", "--memory", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("edited by hand") == 1  # and the line is not said to be a chunk's
    assert shown.index("edited by hand") < shown.index("+ precious: my own edit") < shown.index("- precious:")


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_disk_that_refuses_loses_nothing(agent, tmp_path, monkeypatch, failing):
    of = history(40)
    with pytest.raises(KeyboardInterrupt):
        run(agent, tmp_path / "m.md", of, Scribe(agent, stop=2))
    before, calls, real = (tmp_path / "m.md").read_text(), [], files.os.replace

    def replace(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(DataError, match="No space left on device; the memory in it is complete"):
            run(agent, tmp_path / "m.md", of, Scribe(agent))
    assert (tmp_path / "m.md").read_text().startswith(before)
    run(agent, tmp_path / "m.md", of, Scribe(agent))
    assert read_record(tmp_path / "m.md").finished


def test_two_writers_on_one_memory(agent, tmp_path):
    with (
        MemoryStore(tmp_path / "m.md", {}),
        pytest.raises(DataError, match="another process is writing this memory"),
    ):
        MemoryStore(tmp_path / "m.md", {})
    context = multiprocessing.get_context("spawn")
    with MemoryStore(tmp_path / "m.md", {}), context.Pool(1) as pool:
        assert "another process is writing" in pool.apply(_try_to_write, (str(tmp_path / "m.md"),))
    with MemoryStore(tmp_path / "m.md", {}):
        pass  # free again


def _try_to_write(path: str) -> str:
    try:
        MemoryStore(path, {})
    except DataError as error:
        return str(error)
    return ""


def test_an_edit_by_hand_is_what_it_goes_on_from(agent, tmp_path):
    of = history(40)
    with pytest.raises(KeyboardInterrupt):
        run(agent, tmp_path / "m.md", of, Scribe(agent, stop=2))
    (tmp_path / "m.md").write_text("- My own line\n")
    with MemoryStore(tmp_path / "m.md", {}) as kept:
        assert kept.edited
    scribe = Scribe(agent, stop=1)
    with pytest.raises(KeyboardInterrupt):
        run(agent, tmp_path / "m.md", of, scribe)
    assert "- My own line" in agent.tokenizer.decode(scribe.prompts[0])


def test_an_edit_while_a_chunk_is_read_is_kept_whatever_its_bytes(agent, tmp_path):
    path, scribe = tmp_path / "m.md", Scribe(agent)

    def edits(prompts, longest):
        if len(scribe.prompts) == 1:
            path.write_bytes(b"- Caf\xe9\n")
        return scribe(prompts, longest)

    run(agent, path, history(40), edits)
    assert (tmp_path / "m.previous.md").read_bytes() == b"- Caf\xe9\n"
    assert [turn.edited for turn in read_record(path).turns if turn.edited is not None] == ["- Caf\ufffd"]


def test_an_edit_into_nonsense_is_refused_and_kept(agent, tmp_path):
    of = history(40)
    with pytest.raises(KeyboardInterrupt):
        run(agent, tmp_path / "m.md", of, Scribe(agent, stop=2))
    for nonsense, said in (
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"hello\n", "line 1 is not a bullet"),
        (b"- long " * 900, "at most 400"),
    ):
        (tmp_path / "m.md").write_bytes(nonsense)
        with pytest.raises(DataError, match=said):
            run(agent, tmp_path / "m.md", of, Scribe(agent))
        assert (tmp_path / "m.md").read_bytes() == nonsense


def test_deleted_it_starts_anew(agent, tmp_path):
    of = history(40)
    run(agent, tmp_path / "m.md", of, Scribe(agent))
    (tmp_path / "m.md").unlink()
    assert [turn.number for turn in run(agent, tmp_path / "m.md", of, Scribe(agent))] == list(
        range(1, len(agent.chunks(of)) + 1)
    )


def test_a_conversation_that_has_grown_is_read_on(agent, tmp_path):
    run(agent, tmp_path / "m.md", history(21), Scribe(agent))
    turns = run(agent, tmp_path / "m.md", history(40), Scribe(agent))
    first = turns[0].chunk
    assert 0 < first.first <= 21 and turns[-1].chunk.last == 39
    record = read_record(tmp_path / "m.md")
    assert record.chunks == [chunk.history.id for chunk in agent.chunks(history(40))]


def test_another_history_is_refused(agent, tmp_path):
    run(agent, tmp_path / "m.md", history(40), Scribe(agent))
    before = (tmp_path / "m.md").read_text()
    with pytest.raises(DataError, match="was written from another history"):
        run(agent, tmp_path / "m.md", history(40, "other"), Scribe(agent))
    assert (tmp_path / "m.md").read_text() == before


def test_a_broken_record_is_named(agent, tmp_path):
    run(agent, tmp_path / "m.md", history(10), Scribe(agent))
    (tmp_path / ".m.md.json").write_text(json.dumps({"what": 1}))
    with pytest.raises(
        DataError, match=r"\.m\.md\.json: key writer is missing; remove it to read the history"
    ):
        MemoryStore(tmp_path / "m.md", {})


def test_a_history_that_is_read_makes_room_for_the_next(agent, tmp_path):
    several = [history(40), *(history(count, f"user {count}") for count in (3, 12, 1, 25, 6, 2))]
    sizes = [len(agent.chunks(of)) for of in several]
    assert len(set(sizes)) > 4 and sizes[0] == max(sizes)
    opened = []

    def entering():
        for i, of in enumerate(several):
            opened.append(i)
            yield of, MemoryStore(tmp_path / f"{i}.md", {})

    rounds = []

    def generate(prompts, longest):
        for i in range(len(several)):  # a store is open while its history is read, and not longer
            read = read_record(tmp_path / f"{i}.md")
            if read is not None and read.finished:
                MemoryStore(tmp_path / f"{i}.md", {}).close()
        rounds.append((len(prompts), len(opened)))
        return Scribe(agent)(prompts, longest)

    turns = list(write(agent, generate, [agent.tokenizer.eos_token_id], entering(), width=3))
    assert len(turns) == sum(sizes) == sum(rows for rows, _ in rounds)
    assert rounds[0] == (3, 3)  # the others are opened when they enter
    assert all(rows == 3 for rows, entered in rounds if entered < len(several))
    # the longest is read from the first round to the last; draining three by three took max + max + max
    drained = sum(max(sizes[start : start + 3]) for start in range(0, len(sizes), 3))
    assert len(rounds) == max(sizes[0], -(-sum(sizes) // 3)) < drained
    for i, of in enumerate(several):
        run(agent, tmp_path / f"alone{i}.md", of, Scribe(agent))
        assert (tmp_path / f"{i}.md").read_text() == (tmp_path / f"alone{i}.md").read_text()
        assert read_record(tmp_path / f"{i}.md") == read_record(tmp_path / f"alone{i}.md")


def test_stopped_side_by_side_nothing_is_read_twice(agent, tmp_path):
    several = [history(12), history(40), history(25, "other"), history(8, "fourth")]
    total = sum(len(agent.chunks(of)) for of in several)

    def read(scribe):
        stores = ((of, MemoryStore(tmp_path / f"{i}.md", {})) for i, of in enumerate(several))
        return list(write(agent, scribe, [agent.tokenizer.eos_token_id], stores, width=2))

    stopped = Scribe(agent, stop=6)
    with pytest.raises(KeyboardInterrupt):
        read(stopped)
    rest = read(Scribe(agent))  # the locks are free
    assert len(stopped.prompts) + len(rest) == total
    assert read(Scribe(agent, stop=0)) == []
    for i, of in enumerate(several):
        run(agent, tmp_path / f"alone{i}.md", of, Scribe(agent))
        assert (tmp_path / f"{i}.md").read_text() == (tmp_path / f"alone{i}.md").read_text()


def test_an_error_of_one_history_keeps_the_updates_of_the_others(agent, tmp_path):
    run(agent, tmp_path / "1.md", history(20, "another"), Scribe(agent))
    several = [history(12), history(40), history(25, "third")]  # the second is not what its store has read
    stores = ((of, MemoryStore(tmp_path / f"{i}.md", {})) for i, of in enumerate(several))
    with pytest.raises(DataError, match=r"1\.md: was written from another history"):
        list(write(agent, Scribe(agent), [agent.tokenizer.eos_token_id], stores, width=1))
    assert read_record(tmp_path / "0.md").finished and not (tmp_path / "2.md").exists()
    for i in range(2):
        MemoryStore(tmp_path / f"{i}.md", {}).close()  # both are free again
