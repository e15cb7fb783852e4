"""The LLM writer against a real server that plays an LLM from a script (scripted_llm.py)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from peculiar import Call, Play, peculiar
from peculiarities import extra, hang, has

from rft.errors import DataError, ServerError
from rft.llm.chat import Chat
from rft.llm.client import Llm
from rft.llm.forms import Answer, Unusable
from rft.llm.journal import Journal
from rft.llm.settings import LlmSettings
from rft.simulate.pipeline import simulate
from rft.simulate.profile import Settings
from rft.tasks.load import load_split
from rft.tasks.memory_targets import about, load_memory_targets
from rft.toy.model import make_tokenizer

SERVER = Path(__file__).parent / "scripted_llm.py"
COUNTS = {"general": 4, "sensitive": 1}
Start = Callable[..., tuple[str, Path]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Start]:
    """start(*options) -> (base URL, log)"""
    running = []

    def start(*options: str) -> tuple[str, Path]:
        log = tmp_path / "log"
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(log), *options], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{int(process.stdout.readline())}/v1", log

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(["a few words to count with, and no more than that"] * 20, vocab_size=300).save_pretrained(
        folder
    )
    return str(folder)


def settings(url: str, tokenizer: str, **changes: object) -> Settings:
    llm = LlmSettings(url, "scripted", price=(2.0, 8.0), votes=3, drafts=4, timeout=30, max_new_tokens=1000)
    llm = replace(llm, **changes)  # type: ignore[arg-type]
    return Settings("middle", 5, 0, tokenizer=tokenizer, history_tokens=20_000, counts=COUNTS, llm=llm)


def answered(log: Path) -> Counter[str]:
    """How often the server answered each request of the writer."""
    found = (line.split() for line in log.read_text().splitlines())
    return Counter(digest for _, task, digest in found if task != "probe")


def kinds(log: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in log.read_text().splitlines())


def test_five_personas_come_out_whole(server: Start, tokenizer: str, tmp_path: Path) -> None:
    url, log = server("--slow", "0")
    record = simulate(settings(url, tokenizer), tmp_path / "data", workers=2)
    questions = sum(record["counts"]["questions"].values())
    assert record["counts"]["personas"] == {"train": 3, "val": 1, "benchmark": 1} and 15 <= questions <= 25
    assert all(audit["evidence"] == 1 for audit in record["audit"].values())
    for name in ("train", "val", "benchmark"):
        split = load_split(tmp_path / "data", name)
        assert not split.skipped
        targets = load_memory_targets(split)
        for question in split.questions:
            question.check()
            of = targets[question.history_id]
            line = of.lines(len(split.history_of(question).messages)).get(about(question))
            if question.kind == "withdrawn":
                assert line is None or line.endswith(": forgotten.")
                assert any(phrase in about(question) for phrase in of.withdrawn)
            elif question.kind == "sensitive":
                assert line is None
            else:
                theirs = ", not the user's own" if question.kind == "others" else ""
                assert line is not None and line.endswith(
                    f": {question.labels['preference'].rstrip('.')}{theirs}."
                )

    assert set(kinds(log)) >= {"valid", "malformed", "refused", "cut"}
    calls = sum(answered(log).values())
    assert record["usage"]["calls"] == calls and set(answered(log).values()) == {1}
    usage = record["usage"]
    assert usage["cost_usd"] == pytest.approx(
        (usage["prompt_tokens"] * 2 + usage["completion_tokens"] * 8) / 1e6
    )

    tasks = Counter(line.split()[1] for line in log.read_text().splitlines())
    accepted = questions - 5  # one about a personal item each, which no model is asked for
    # By the script 0.91 of the answers are usable, 0.9 of the queries tell nothing, 0.85 of the lengths are
    # right, and about 0.73 and 0.91 pass the two votes: 0.46 in all.
    assert abs(accepted / tasks["options"] - 0.46) < 0.2
    reasons = " ".join(record["rejected"])
    for reason in ("malformed", "refused", "cut off", "tells the preference", "length", "chooses the gold"):
        assert reason in reasons, reason


def test_killed_and_resumed_without_paying_twice(server: Start, tokenizer: str, tmp_path: Path) -> None:
    url, log = server("--delay", "0.01", "--slow", "0")
    code = (
        "import sys; from pathlib import Path; from rft.simulate.pipeline import simulate;"
        "from rft.llm.settings import LlmSettings; from rft.simulate.profile import Settings;"
        f"simulate({settings(url, tokenizer)!r}, Path(sys.argv[1]), workers=2)"
    )
    for enough in (30, 90):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "data")], cwd=SERVER.parents[2]
        )
        while process.poll() is None and (not log.exists() or sum(answered(log).values()) < enough):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "data").exists()
    record = simulate(settings(url, tokenizer), tmp_path / "data", workers=2)
    twice = [digest for digest, times in answered(log).items() if times > 1]
    assert len(twice) <= 4, "at most what was on its way: two workers, two kills"
    assert record["usage"]["calls"] == len(answered(log))

    simulate(settings(url, tokenizer), tmp_path / "again", workers=1)
    for name in ("benchmark/text/train.csv", "README.md", "simulation.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "data" / name).read_bytes()


def test_a_spent_budget_stops_and_goes_on(server: Start, tokenizer: str, tmp_path: Path) -> None:
    url, log = server("--slow", "0")
    with pytest.raises(
        ServerError,
        match=r"the budget of \$0.05 does not allow another call: \$0.0\d+ is spent .* raise --llm-budget",
    ):
        simulate(settings(url, tokenizer, budget=0.05), tmp_path / "data", workers=2)
    assert sum(answered(log).values()) > 5 and not (tmp_path / "data").exists()
    spent = sum(answered(log).values())
    partial = tmp_path / ".data.partial/llm_calls"
    entries = [json.loads(line) for path in partial.glob("*.jsonl") for line in path.read_text().splitlines()]
    paid = sum(map(float, (partial / "spent.txt").read_text().split()))
    assert len(entries) == spent and sum(entry["cost"] for entry in entries) < paid <= 0.05  # and a probe
    with pytest.raises(ServerError, match=r"\$0.05 does not allow another call"):  # it is remembered
        simulate(settings(url, tokenizer, budget=0.05), tmp_path / "data", workers=2)
    assert sum(answered(log).values()) == spent
    record = simulate(settings(url, tokenizer, budget=10.0), tmp_path / "data", workers=2)
    assert record["usage"]["calls"] == sum(answered(log).values()) > spent and set(
        answered(log).values()
    ) == {1}


def test_an_llm_that_always_tells_the_preference(server: Start, tokenizer: str, tmp_path: Path) -> None:
    url, _ = server("--telling", "1", "--slow", "0")
    wanted = replace(settings(url, tokenizer, drafts=2), counts={"general": 4})
    with pytest.raises(
        DataError,
        match=r"no question survived .* most often because question: the query tells the preference",
    ):
        simulate(wanted, tmp_path / "data")


def test_a_repaired_llm_is_asked_again(server: Start, tokenizer: str, tmp_path: Path) -> None:
    url, log = server("--malformed", "1", "--slow", "0")
    with pytest.raises(DataError, match="no question survived") as told:
        simulate(settings(url, tokenizer), tmp_path / "data")
    shown = "replies such as this one (the answer was malformed: Here is what you asked for: {"
    assert shown in str(told.value)
    assert str(told.value).endswith(f"to start over and pay again, remove {tmp_path / '.data.partial'}")
    url, log = server("--slow", "0")
    record = simulate(settings(url, tokenizer), tmp_path / "data")
    assert sum(record["counts"]["questions"].values()) >= 15
    assert record["usage"]["calls"] == sum(answered(log).values())


def test_a_slow_llm_is_asked_again(server: Start, tokenizer: str, tmp_path: Path) -> None:
    url, _ = server("--slow", "0.05", "--seconds", "20")
    wanted = replace(settings(url, tokenizer, timeout=2.0, attempts=2), personas=3, counts={"general": 4})
    record = simulate(wanted, tmp_path / "data", workers=8)
    assert any("no answer within 2 seconds" in reason for reason in record["rejected"])
    assert sum(record["counts"]["questions"].values()) >= 4


def test_no_server(tokenizer: str, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"http://127.0.0.1:9/v1: nothing answers there"):
        simulate(settings("http://127.0.0.1:9/v1", tokenizer), tmp_path / "data")
    partial = json.loads((tmp_path / ".data.partial/simulation.json").read_text())
    assert partial["settings"]["llm"]["model"] == "scripted"


KEY = "sk-very-secret-0123456789"
GOOD = '{"letter": "b"}'


class Pick(Answer):
    letter: str


def says(content: object, **more: object) -> Play:
    return lambda call: call.answer({"content": content}, **more)


def echo(call: Call) -> None:
    call.answer({"content": json.dumps({"letter": call.headers["Authorization"]})})


def good(trouble: Play) -> Play:
    """Goes wrong once, then answers."""
    return lambda call: trouble(call) if call.number == 0 else says(GOOD)(call)


FILTERED = "The prompt triggered our content management policy."
ANSWERS: dict[str, tuple[Play, int, str | type[Exception], str]] = {
    # play, calls, the letter or the error, its words
    "as asked": (says(GOOD), 1, "b", ""),
    "fenced": (says(f"```json\n{GOOD}\n```"), 1, "b", ""),
    "fenced in prose": (says(f"Here you are:\n\n```json\n{GOOD}\n```\nAnything else?"), 1, "b", ""),
    "two fences": (says(f"```json\n{GOOD}\n```\nor\n```json\n{GOOD}\n```"), 1, Unusable, "malformed"),
    "JSON in prose": (says(f"Here you are: {GOOD}"), 1, Unusable, "malformed"),
    "after a thought": (says(f"<think>Well.</think>{GOOD}"), 1, "b", ""),
    "no count of tokens": (says(GOOD, usage=None), 1, "b", ""),
    "tells the key": (echo, 1, "Bearer ***", ""),
    "form ignored": (says("I pick b."), 1, Unusable, "malformed"),
    "JSON of another form": (says('{"letter": "b", "why": "so"}'), 1, Unusable, "malformed"),
    "broken JSON": (says(GOOD[:-2]), 1, Unusable, "malformed"),
    "nothing": (says(None), 1, Unusable, "malformed"),
    "cut off": (says(GOOD, finish="length"), 1, Unusable, "cut off"),
    "a refusal": (lambda call: call.answer({"content": None, "refusal": "No."}), 1, Unusable, "refused"),
    "a filter": (lambda call: call.refuse(FILTERED, code="content_filter"), 1, Unusable, "refused"),
    "busy once": (good(lambda call: call.send({}, 429, {"Retry-After": "0.05"})), 2, "b", ""),
    "an error once": (good(lambda call: call.refuse("oops", 500)), 2, "b", ""),
    "no completion": (lambda call: call.text("{"), 2, Unusable, "malformed"),
    "too slow": (hang, 2, Unusable, "no answer within 0.5 seconds"),
    "an error again and again": (
        lambda call: call.refuse("oops", 500),
        2,
        ServerError,
        "failed .500 Internal .*: oops",
    ),
    "no room": (lambda call: call.refuse("prompt is too long"), 1, ServerError, "with --llm-max-new-tokens"),
    "wrong key": (lambda call: call.refuse("no", 401), 1, ServerError, "refuses the key in"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_an_llm_may_answer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play, calls, expected, words = ANSWERS[name]
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    journal = tmp_path / "persona0.jsonl"
    with peculiar(play) as server:
        llm = Llm(LlmSettings(server.url, "played", price=(2, 8), attempts=2, timeout=0.5), tmp_path, 1)
        try:
            for _ in range(2):  # what was answered is not paid for again
                chat = Chat(llm, Journal(journal))
                if isinstance(expected, str):
                    assert chat.ask(Pick, "Pick one.", {"of": "ab"}, 0).letter == expected
                else:
                    with pytest.raises(expected, match=words) as told:
                        chat.ask(Pick, "Pick one.", {"of": "ab"}, 0)
                    assert "\n" not in str(told.value)
                if not journal.exists():
                    assert len(server.bodies) == calls
                    break
                assert chat.paid["calls"] == 1 and chat.paid["cost_usd"] > 0
            assert len(server.bodies) == calls
        finally:
            llm.close()
    assert server.keys == {f"Bearer {KEY}"}
    assert not journal.exists() or KEY not in journal.read_text()
    form = server.bodies[0]["response_format"]["json_schema"]
    assert form["name"] == "Pick" and form["strict"] and form["schema"]["additionalProperties"] is False


def test_a_server_without_structured_output_is_told_the_form(tmp_path: Path) -> None:
    with peculiar(
        lambda call: extra("response_format")(call) if has("response_format")(call.body) else says(GOOD)(call)
    ) as server:
        llm = Llm(LlmSettings(server.url, "played"), tmp_path, 1)
        chat = Chat(llm, Journal(tmp_path / "persona0.jsonl"))
        assert [chat.ask(Pick, "Pick one.", {}, seed).letter for seed in (0, 1)] == ["b", "b"]
        assert llm.told() == "2 calls, 0 USD"
        llm.stop()
        with pytest.raises(ServerError, match="stopped"):
            chat.ask(Pick, "Pick one.", {}, 2)
        llm.close()
    refused, *others = server.bodies
    assert "response_format" in refused and len(others) == 2
    for body in others:
        assert "response_format" not in body and '"letter"' in body["messages"][0]["content"]


def test_a_server_that_goes_away_loses_nothing(server: Start, tokenizer: str, tmp_path: Path) -> None:
    url, log = server("--slow", "0", "--dies", "40")
    with pytest.raises(ServerError, match=r"a call failed \(connection: .*rerun the same command to resume"):
        simulate(settings(url, tokenizer, attempts=2), tmp_path / "data", workers=2)
    assert sum(answered(log).values()) == 40 and not (tmp_path / "data").exists()
    url, log = server("--slow", "0")
    record = simulate(settings(url, tokenizer), tmp_path / "data", workers=2)
    assert record["usage"]["calls"] == sum(answered(log).values()) > 40 and set(answered(log).values()) == {1}
    assert not any("no answer" in reason for reason in record["rejected"])
