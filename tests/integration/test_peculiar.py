"""Every peculiarity of peculiarities.py from the command line: `rft evaluate`, `rft memory write`, and as the
judge."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from peculiar import Peculiar, peculiar
from peculiarities import PECULIARITIES, Peculiarity

from rft.evaluate.results import read_rows
from rft.memory.store import read_record
from rft.simulate.pipeline import simulate
from rft.simulate.profile import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
KEY = "sk-very-secret-0123456789"
VOTES = 3


@pytest.fixture(scope="module")
def rft():
    """rft(jobs) -> their exit codes; a job is (argv, folder)."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "MY_KEY": KEY, "COLUMNS": "1000"}
    script = str(Path(__file__).with_name("cli_server.py"))
    with subprocess.Popen(
        [sys.executable, script], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:

        def run(*jobs: tuple[list[str], Path]) -> list[int]:
            for _, folder in jobs:
                folder.mkdir(parents=True, exist_ok=True)
            told = [{"argv": argv, "log": str(folder / "log"), "cwd": str(folder)} for argv, folder in jobs]
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
            answer = next(line for line in process.stdout if line.startswith("answer "))
            return json.loads(answer.removeprefix("answer "))

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mini"
    simulate(Settings("mini", 12, seed=0), folder)
    return folder


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    file = tmp_path_factory.mktemp("chat") / "chat.json"
    said = [{"role": "user", "content": f"Talk {i} of jazz and figs. " * 8} for i in range(4)]
    file.write_text(json.dumps([{"role": "system", "content": "A person."}, *said]))
    return file


def evaluating(url: str, data: Path, *more: str) -> list[str]:
    words = [
        "evaluate",
        "--model",
        "played",
        "--base-url",
        url,
        "--api-key-env",
        "MY_KEY",
        "--data",
        str(data),
        "--limit",
        "4",
    ]
    return [
        *words,
        "--out",
        "out",
        "--max-new-tokens",
        "64",
        "--attempts",
        "3",
        "--concurrency",
        "4",
        "--no-controls",
        *more,
    ]


def remembering(url: str, chat: Path, *more: str) -> list[str]:
    words = [
        "memory",
        "write",
        "--model",
        "played",
        "--base-url",
        url,
        "--api-key-env",
        "MY_KEY",
        "--history",
        str(chat),
    ]
    return [*words, "--out", "memory.md", "--chunk-tokens", "150", "--memory-tokens", "64", *more]


def judging(url: str, judge: str, data: Path, *more: str) -> list[str]:
    judged = [
        "--open-ended",
        "--judge-model",
        "played",
        "--judge-base-url",
        judge,
        "--judge-api-key-env",
        "MY_KEY",
    ]
    return evaluating(url, data, *judged, "--judge-cache", "verdicts", *more, "--limit", "2")


def said(folder: Path) -> str:
    return (folder / "log").read_text()


def value(summary: dict, path: str):
    for key in path.split("."):
        summary = summary[key]
    return summary


def check_common(folder: Path, server: Peculiar, code: int, times: int = 1) -> None:
    """No traceback, one line of error, the key nowhere, nothing paid twice."""
    assert "Traceback" not in said(folder) and (code != 2 or said(folder).count("error: ") == 1), said(folder)
    for file in folder.rglob("*"):
        assert not file.is_file() or KEY not in file.read_text(errors="replace"), file
    assert server.keys <= {f"Bearer {KEY}", None}
    assert max(server.paid.values(), default=0) <= times, server.paid


@pytest.mark.parametrize("name", PECULIARITIES)
def test_a_peculiar_server_costs_no_answer(name: str, rft, data: Path, chat: Path, tmp_path: Path) -> None:
    what: Peculiarity = PECULIARITIES[name]
    here, notes, judged = (tmp_path / part for part in ("evaluate", "memory", "judge"))
    plain = PECULIARITIES["plain"].play
    with (
        peculiar(what.play) as a,
        peculiar(what.play) as b,
        peculiar(what.play) as c,
        peculiar(plain) as good,
    ):
        codes = rft(
            (evaluating(a.url, data, *what.options), here),
            (remembering(b.url, chat, *(what.options if "--temperature" in what.options else ())), notes),
            (judging(good.url, c.url, data, *what.options), judged),
        )
        expected = [what.code, *(what.code if code is None else code for code in (what.memory, what.judge))]
        assert codes == expected, said(here) + said(notes) + said(judged)
        for folder, server, code, times in (
            (here, a, codes[0], 1),
            (notes, b, codes[1], 1),
            (judged, c, codes[2], VOTES),
        ):
            check_common(folder, server, code, times)
        assert re.search(what.said, said(here)), said(here)
        if what.code == 2:
            return
        rows = read_rows(here / "out")
        assert len(rows) == 4 - what.lost and len(rows) >= len(a.paid)  # what was paid is there
        summary = json.loads((here / "out" / "summary.json").read_text())
        assert {path: value(summary, path) for path in what.has} == what.has
        assert summary["unanswered"] == what.lost and "refused_rate" in summary
        calls = len(a.bodies)
        assert rft((evaluating(a.url, data, *what.options), here)) == [what.code]
        # what is there is not asked again
        assert len(a.bodies) - calls <= 2 * what.lost and max(a.paid.values()) == 1
        if codes[1] == 0:
            record = read_record(notes / "memory.md")
            assert record.finished and len(record.chunks) == len(b.paid | b.times) > 1


def spent(folder: Path, name: str = "out/spent.txt") -> float:
    return sum(map(float, (folder / name).read_text().split()))


@pytest.mark.parametrize(
    "name", ["no usage", "ignores max_completion_tokens", "ignores every limit", "plain"]
)
def test_a_budget_holds_whatever_the_server_counts(
    name: str, rft, data: Path, chat: Path, tmp_path: Path
) -> None:
    budget = 3.0 if name in ("no usage", "plain") else 200.0
    money = ("--price", "100", "1000", "--budget", str(budget))
    here, notes = tmp_path / "evaluate", tmp_path / "memory"
    with peculiar(PECULIARITIES[name].play) as server, peculiar(PECULIARITIES[name].play) as other:
        codes = rft(
            (evaluating(server.url, data, *money), here), (remembering(other.url, chat, *money), notes)
        )
        assert spent(here) <= budget and spent(notes, ".memory.md.spent") <= budget
        for folder in (here, notes):
            assert "Traceback" not in said(folder)
        if name == "ignores every limit":  # seen on a small question, before a dear one is asked
            assert (
                codes == [2, 2]
                and "budget cannot be enforced" in said(here)
                and "budget cannot be enforced" in said(notes)
            )
            assert all(
                "Count from one" in body["messages"][0]["content"] for body in server.bodies + other.bodies
            )
            return
        assert codes == [0, 0], said(here) + said(notes)
        rows = read_rows(here / "out")
        # the most that it can be: every byte read a token, every token allowed written
        if name == "no usage":
            asked = [body["messages"] for body in server.bodies[1:]]
            most = [
                sum(100 * (len(m["content"].encode()) + 16) for m in messages) + 1000 * 64
                for messages in asked
            ]
            assert sorted(row.cost for row in rows) == pytest.approx(
                sorted(dollars / 1e6 for dollars in most)
            )
            assert {row.input_tokens for row in rows} == {None}
            assert (
                "tokens read: not given" in said(notes)
                and "not given" in (here / "out" / "report.html").read_text()
            )


def test_retrieval_takes_fewer_passages_where_the_server_has_no_room(rft, data: Path, tmp_path: Path) -> None:
    def narrow(call) -> None:
        room = sum(len(m["content"].split()) for m in call.body["messages"]) <= 160
        call.answer() if room else call.refuse("the request exceeds the available context size")

    with peculiar(narrow) as server:
        words = ("--context", "retrieval", "--passages")
        fixed, fit = evaluating(server.url, data, *words, "10"), evaluating(server.url, data, *words, "fit")
        codes = rft((fixed, tmp_path / "fixed"), (fit, tmp_path / "fit"))
        assert codes == [2, 0] and "--passages fit" in said(tmp_path / "fixed"), said(tmp_path / "fit")
        assert len(server.paid) == 4 and set(server.paid.values()) == {1}
        assert all(row.read.startswith("messages ") for row in read_rows(tmp_path / "fit" / "out"))


def test_a_question_answered_from_a_memory_through_a_url(rft, chat: Path, tmp_path: Path) -> None:
    with peculiar(PECULIARITIES["two choices"].play) as server:
        words = ["--model", "played", "--base-url", server.url, "--memory", "memory.md"]
        jobs = (
            (remembering(server.url, chat), tmp_path),
            (["memory", "answer", *words, "What shall I play?"], tmp_path),
        )
        assert rft(jobs[0]) == [0] and rft(jobs[1]) == [0]
        assert "Have some tea." in said(tmp_path)
        asked = server.bodies[-1]["messages"][-1]["content"]
        assert "likes jazz" in asked and "Talk 1" not in asked and asked.endswith("What shall I play?")
