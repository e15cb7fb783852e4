"""Memories of many histories, as `rft evaluate` writes them: the same however many are written at the same
time, by one process or shared out."""

import re

import pytest

from rft.data.history import History, Message, history_id
from rft.errors import DataError
from rft.evaluate.memory import Memory
from rft.memory.agent import MemorySettings
from rft.memory.store import MemoryStore
from rft.models.local import LocalModel

SETTINGS = MemorySettings(60, 24)


@pytest.fixture(scope="module")
def model(repository) -> LocalModel:
    return LocalModel(repository / "recipes/quickstart/base", device="cpu", dtype="float32")


def history(count: int, liking: str) -> History:
    told = tuple(
        message
        for i in range(count)
        for message in (
            Message("user", f"I love {liking}. This is day {i}."),
            Message("assistant", "That sounds like a good evening."),
        )
    )
    return History(history_id(told), "", "chat.json", told)


LIKINGS = {
    "playing golf": 1,
    "listening to jazz": 6,
    "eating figs": 2,
    "doing knitting": 1,
    "baking cookies": 4,
}
HISTORIES = [history(count, liking) for liking, count in LIKINGS.items()]


def written(folder) -> dict[str, bytes]:
    return {of.id: (folder / f"{of.id}.md").read_bytes() for of in HISTORIES}


def test_memories_do_not_depend_on_how_many_are_written_at_once(model, tmp_path, capsys):
    found, lines = {}, {}
    for width in (1, 2, 8):
        Memory(model, tmp_path / str(width), SETTINGS, batch_size=width).prepare(HISTORIES)
        found[width], lines[width] = written(tmp_path / str(width)), capsys.readouterr().err
    assert found[1] == found[2] == found[8]
    assert len(set(found[1].values())) > 2  # the model does write
    agent = Memory(model, tmp_path, SETTINGS).agent
    sizes = [len(agent.chunks(of)) for of in HISTORIES]
    rounds = {1: sum(sizes), 2: max(max(sizes), -(-sum(sizes) // 2)), 8: max(sizes)}
    for width, line in lines.items():
        said = re.search(
            r"memories: 5 histories, (\d+) updates in (\d+) rounds of up to (\d+) \((\d+)% full", line
        )
        fill = round(100 * sum(sizes) / rounds[width] / min(width, 5))
        assert said and [int(x) for x in said.groups()] == [sum(sizes), rounds[width], min(width, 5), fill]
    Memory(model, tmp_path / "1", SETTINGS).prepare(HISTORIES)
    assert capsys.readouterr().err == ""  # nothing is left to write


def test_processes_share_out_the_histories_of_one_folder(model, tmp_path):
    Memory(model, tmp_path / "alone", SETTINGS).prepare(HISTORIES)
    for part in (0, 1):
        Memory(model, tmp_path / "shared", SETTINGS).prepare(HISTORIES[part::2])
    assert written(tmp_path / "alone") == written(tmp_path / "shared")


def test_a_memory_that_another_process_writes_is_named(model, tmp_path):
    first = max(HISTORIES, key=lambda of: len(of.messages))
    memory = Memory(model, tmp_path, SETTINGS, batch_size=1)
    with (
        MemoryStore(tmp_path / f"{first.id}.md", memory.writer),
        pytest.raises(DataError, match=rf"{first.id}\.md: another process is writing this memory"),
    ):
        memory.prepare(HISTORIES)
    memory.prepare(HISTORIES)
    assert len(written(tmp_path)) == len(HISTORIES)
