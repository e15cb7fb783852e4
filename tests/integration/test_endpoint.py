"""Models behind a URL: a real HTTP server that fails in every way, and not one answer lost or paid for
twice."""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from peculiar import peculiar
from served import serve

from rft.errors import DataError
from rft.evaluate.command import add_arguments, run
from rft.evaluate.context import FullHistoryContext
from rft.evaluate.endpoint import EndpointAnswers
from rft.evaluate.results import read_rows
from rft.evaluate.run import evaluate
from rft.models.budget import Budget
from rft.models.endpoint import PROBE, STRIKES, Endpoint
from rft.models.failures import BudgetSpent, EndpointError, Unanswered

KEY = "sk-very-secret-0123456789"


def answer(messages):
    """Right, wrong or unreadable, always the same for one prompt."""
    return random.Random(messages[-1]["content"]).choice(
        ["<think>So.</think>\\boxed{a}", "<think>Hm.</think>\\boxed{b}", "no idea"]
    )


def asked(server):
    return [body["messages"][-1]["content"] for body in server.requests]


def endpoint(server, **options):
    return Endpoint(server.url, "played", **{"concurrency": 4, "timeout": 5.0, "back_off": 0.01} | options)


def answers(server, context="history", **options):
    return EndpointAnswers(endpoint(server, **options), FullHistoryContext(context), max_new_tokens=20)


def chat(to, text="hello", max_tokens=20):
    return asyncio.run(to.chat([{"role": "user", "content": text}], max_tokens=max_tokens))


def numbers(summary):
    return {
        key: value for key, value in summary.dump().items() if key not in ("seconds", "usage", "settings")
    }


def command(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


def test_every_question_is_asked_once_a_few_at_a_time_history_by_history(split, tmp_path):
    def slow(messages):
        time.sleep(0.005)
        return answer(messages)

    with serve(slow) as server:
        summary = evaluate(split, tmp_path, answers(server))
    assert summary.n == len(server.requests) == len(set(asked(server))) == 32
    assert 2 <= server.most_in_flight <= 4
    systems = [body["messages"][1]["content"] for body in server.requests]
    changes = sum(a != b for a, b in zip(systems, systems[1:], strict=False))
    assert changes < 3 + 12  # four histories; calls near a change may overtake one another
    assert {body["temperature"] for body in server.requests} == {0.0} and server.requests[0][
        "max_completion_tokens"
    ] == 20
    rows = read_rows(tmp_path)
    assert summary.usage.input_tokens == sum(row.input_tokens for row in rows) > 0
    assert summary.usage.cached_tokens > 0 and summary.output_tokens_per_question == 7


def test_a_server_that_fails_in_every_way_loses_nothing(split, tmp_path):
    troubles = [
        "hang",
        "malformed",
        "html",
        "empty",
        (500, {}),
        (429, {"Retry-After": "0.05"}),
        (429, {"Retry-After": formatdate(usegmt=True)}),
        (503, {}),
    ]

    def trouble(number):
        return troubles[number // 3 % len(troubles)] if number % 3 == 0 else None

    with serve(answer) as server:
        whole = evaluate(split, tmp_path / "whole", answers(server))
    with serve(answer, trouble) as server:
        summary = evaluate(split, tmp_path / "flaky", answers(server, timeout=0.3, attempts=12))
        calls = len(server.requests)
    assert numbers(summary) == numbers(whole)
    failures = summary.usage.failures
    assert set(failures) == {"timeout", "malformed", "500", "429", "503"}
    assert calls == 32 + sum(failures.values()) and summary.unanswered == 0


def test_retry_after_is_honoured_by_all_calls(split):
    with serve(answer, lambda number: (429, {"Retry-After": "0.6"}) if number == 0 else None) as server:
        to = endpoint(server)
        first = chat(to)
        assert first.failures == {"429": 1} and server.times[1] - server.times[0] >= 0.6
        to.answered = 0

        async def two():
            one, before = (
                asyncio.create_task(to.chat([{"role": "user", "content": "one"}], max_tokens=5)),
                to._resume_at,
            )
            while to._resume_at == before:  # the second call starts once the first has been told to wait
                assert not one.done()
                await asyncio.sleep(0.01)
            return await asyncio.gather(one, to.chat([{"role": "user", "content": "two"}], max_tokens=5))

        server.trouble = lambda number: (429, {"Retry-After": "0.6"}) if number == 2 else None
        asyncio.run(two())
        assert min(server.times[3:]) - server.times[2] >= 0.6  # the second call waited too


def test_a_question_that_never_works_is_counted_and_asked_again(split, tmp_path):
    bad = {q.query for q in split.questions[:2]}

    def picky(messages):
        if server.picky and any(messages[-1]["content"].startswith(query) for query in bad):
            raise ConnectionAbortedError
        return answer(messages)

    with serve(picky) as server:
        server.picky = True
        summary = evaluate(split, tmp_path, answers(server, attempts=2))
        lost = summary.unanswered
        assert lost >= 2 and summary.n == 32 - lost
        server.picky, before = False, len(server.requests)
        summary = evaluate(split, tmp_path, answers(server))
        assert summary.unanswered == 0 and summary.n == 32 and len(server.requests) - before == lost


def test_killed_run_asks_nothing_twice(data, split, tmp_path):
    def slow(messages):
        time.sleep(0.03)
        return answer(messages)

    with serve(slow) as server:
        program = textwrap.dedent(f"""
            from rft.models.endpoint import Endpoint
            from rft.tasks.load import load_split
            from rft.evaluate.context import FullHistoryContext
            from rft.evaluate.endpoint import EndpointAnswers
            from rft.evaluate.run import evaluate
            to = Endpoint({server.url!r}, "played", concurrency=2)
            answerer = EndpointAnswers(to, FullHistoryContext("history"), 20)
            evaluate(load_split({str(data)!r}, "benchmark"), {str(tmp_path / "out")!r}, answerer)
        """)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        process = subprocess.Popen(
            [sys.executable, "-c", program], stderr=subprocess.DEVNULL, env=environment
        )
        rows = tmp_path / "out" / "results.jsonl"
        while process.poll() is None and (not rows.exists() or rows.read_bytes().count(b"\n") < 5):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not (tmp_path / "out" / "summary.json").exists()
        done = {
            json.loads(line)["query"]
            for line in rows.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        }
        time.sleep(0.2)  # the calls in flight end
        before = len(server.requests)
        summary = evaluate(split, tmp_path / "out", answers(server))
        again = asked(server)[before:]
        assert len(again) == 32 - len(done) and len(set(again)) == len(again)
    with serve(answer) as server:
        whole = evaluate(split, tmp_path / "whole", answers(server))
    assert numbers(summary) == numbers(whole)


def test_a_hard_budget_is_never_exceeded_and_survives_a_restart(split, tmp_path):
    ledger = tmp_path / "spent.txt"
    with serve(answer) as server:

        def once(limit):
            budget = Budget(limit, ledger)
            to = answers(server, price=(1000.0, 1000.0), budget=budget)
            return evaluate(split, tmp_path / "out", to), budget

        with pytest.raises(
            EndpointError, match=r"the budget of \$\d+ does not allow another call: .* raise --budget"
        ):
            once(6)
        rows = read_rows(tmp_path / "out")
        spent = sum(row.cost for row in rows)
        probe = (len(PROBE[0]["content"].split()) + 7) / 1000  # dollars: is the limit on answers heeded?
        assert 0 < len(rows) < 32 and len(rows) == len(server.requests) - 1
        assert Budget(6, ledger).spent == pytest.approx(spent + probe) and spent + probe <= 6
        with pytest.raises(EndpointError, match="raise --budget"):
            once(6)
        assert len(server.requests) <= len(rows) + 2  # what was spent before counts
        probes = len(server.requests) - len(rows)
        summary, budget = once(10_000)
        assert summary.n == 32 == len(server.requests) - probes - 1
        assert budget.spent == pytest.approx(summary.usage.cost + (probes + 1) * probe)


def test_a_budget_waits_for_calls_in_flight(split):
    async def two():
        budget = Budget(1.0)
        await budget.reserve(0.8)
        second = asyncio.create_task(budget.reserve(0.8))
        await asyncio.sleep(0.01)
        assert not second.done()
        budget.settle(0.8, 0.1)
        await second
        budget.settle(0.8, 0.5)
        with pytest.raises(BudgetSpent):
            await budget.reserve(0.41)

    asyncio.run(two())


def test_the_key_is_sent_and_nowhere_else(data, tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("MY_KEY", KEY)
    with serve(answer, lambda number: (500, {}) if number % 5 == 0 else None) as server:
        words = [
            "--model",
            "played",
            "--base-url",
            server.url,
            "--api-key-env",
            "MY_KEY",
            "--data",
            data,
            "--limit",
            8,
        ]
        assert command(*words, "--out", tmp_path / "out") == 0
        assert server.keys == {f"Bearer {KEY}"}
        server.trouble = lambda number: (400, {})
        with pytest.raises(
            EndpointError, match=r"no call has worked \(refused: .*no luck with Bearer \*\*\*"
        ):
            command(*words, "--out", tmp_path / "other")
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    said = capsys.readouterr()
    assert KEY not in written + caplog.text + said.out + said.err and "results.jsonl" in str(
        list(tmp_path.rglob("*"))
    )


def test_what_cannot_work_is_told_at_once(data, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    base = ["--model", "played", "--data", data, "--out", tmp_path / "out", "--limit", 4, "--attempts", 2]
    with pytest.raises(EndpointError, match="the environment variable NO_SUCH_KEY is not set"):
        command(*base, "--base-url", "http://127.0.0.1:1/v1", "--api-key-env", "NO_SUCH_KEY")
    with pytest.raises(EndpointError, match="nothing answers there"):
        command(*base, "--base-url", "http://127.0.0.1:1/v1")
    with pytest.raises(EndpointError, match="expected the base URL of an OpenAI-compatible API"):
        command(*base, "--base-url", "localhost:8000")
    with pytest.raises(EndpointError, match="would be written to result files"):
        command(*base, "--base-url", f"http://me:{KEY}@localhost/v1")
    with pytest.raises(EndpointError, match="a budget needs prices"):
        command(*base, "--base-url", "http://localhost:1/v1", "--budget", 5)
    with serve(answer) as server:
        server.trouble = lambda number: (404, {})
        with pytest.raises(EndpointError, match="no model 'played' or no chat API there"):
            command(*base, "--base-url", server.url)
        server.trouble = lambda number: (401, {})
        with pytest.raises(
            EndpointError, match="requires a key; put it into the environment variable OPENAI_API_KEY"
        ):
            command(*base, "--base-url", server.url)
        server.trouble = lambda number: "html"
        with pytest.raises(EndpointError, match="not from an OpenAI-compatible API"):
            command(*base, "--base-url", server.url)
    assert not (tmp_path / "out" / "summary.json").exists()


def test_one_refused_call_is_no_reason_to_stop(split):
    with serve(answer, lambda number: (400, {}) if number == 1 else None) as server:
        to = endpoint(server)
        chat(to)
        with pytest.raises(Unanswered, match="refused"):
            chat(to)
        assert len(server.requests) == 2  # a refusal is not repeated
        chat(to)
    with pytest.raises(EndpointError, match="no call has worked"):
        chat(endpoint(server, attempts=2))


ERRORS = {
    "no body": ((429, ""), "429 Too Many Requests"),
    "a page": ((503, "<html>Back\n soon</html>"), "503 Service Unavailable: <html>Back soon</html>"),
    "JSON": ((500, '{"error": {"message": "oops"}}'), "500 Internal Server Error: oops"),
    "a status without a name": ((599, ""), "599"),
    "refused without a word": ((422, ""), "refused: 422 Unprocessable Entity"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_told_with_its_status_and_words(name):
    (status, body), words = ERRORS[name]
    with peculiar(lambda call: call.text(body, status=status) if call.place else call.answer()) as server:
        to = endpoint(server, attempts=1)
        chat(to)
        with pytest.raises(Unanswered) as told:
            chat(to, "again")
        assert str(told.value).replace("Unprocessable Content", "Unprocessable Entity") == words
        with pytest.raises(EndpointError, match=re.escape(f"no call has worked ({str(told.value)}); check")):
            broken = endpoint(server, attempts=1)
            for _ in range(STRIKES):
                with contextlib.suppress(Unanswered):
                    chat(broken, "again")


def test_reasoning_apart_and_odd_replies(split):
    with serve(lambda messages: {"content": "\\boxed{a}", "reasoning_content": "Since tea."}) as server:
        assert chat(endpoint(server)).text == "<think>Since tea.</think>\\boxed{a}"
        server.say = lambda messages: {"content": None}
        assert chat(endpoint(server)).text == ""
        server.say = lambda messages: "x" * 1_000_000
        assert len(chat(endpoint(server)).text) == 1_000_000


def test_blind_control_comes_with_the_command(data, tmp_path):
    with serve(answer) as server:
        words = [
            "--model",
            "played",
            "--base-url",
            server.url,
            "--data",
            data,
            "--limit",
            8,
            "--out",
            tmp_path / "out",
        ]
        assert command(*words) == 0
        assert len(server.requests) == 16 and sorted({len(b["messages"]) for b in server.requests})[0] == 2
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert list(summary["controls"]) == ["blind", "longest", "shortest", "strongest"]
        assert command(*words) == 0 and len(server.requests) == 16
        assert command(*words[:-1], tmp_path / "bare", "--no-controls") == 0 and len(server.requests) == 24


def test_dense_retrieval_asks_the_endpoint_for_embeddings(data, tmp_path):
    with serve(answer) as server:
        words = [
            "--model",
            "played",
            "--base-url",
            server.url,
            "--data",
            data,
            "--limit",
            4,
            "--out",
            tmp_path / "out",
            "--no-controls",
        ]
        assert command(*words, "--context", "retrieval", "--embedding-model", "embed", "--passages", 1) == 0
        assert {len(body["messages"]) for body in server.requests} <= set(range(3, 9))
        rows = read_rows(tmp_path / "out")
        assert all(row.read.startswith("messages ") for row in rows)
        assert json.loads((tmp_path / "out" / "run.json").read_text())["retriever"] == "embeddings: embed"


def test_options_that_do_nothing_or_clash_are_told(data, tmp_path, caplog):
    with serve(answer) as server:
        words = [
            "--model",
            "played",
            "--base-url",
            server.url,
            "--data",
            data,
            "--limit",
            2,
            "--out",
            tmp_path / "out",
        ]
        assert command(*words, "--token-cache", "x", "--passages", 3, "--judge-model", "j", "--vllm") == 0
        for ignored in ("--token-cache", "--passages", "--judge-model", "--vllm"):
            assert f"{ignored} is ignored" in caplog.text
        with pytest.raises(DataError, match="at temperature 0 all samples are the same"):
            command(*words[:-1], tmp_path / "b", "--samples", 3)
        with pytest.raises(DataError, match="there are no options to rotate"):
            command(*words[:-1], tmp_path / "c", "--open-ended", "--option-orders", 4)
        with pytest.raises(DataError, match="answers are scored by a judge"):
            command(*words[:-1], tmp_path / "d", "--open-ended")


def test_samples_go_out_with_their_own_seeds(data, tmp_path):
    with serve(answer) as server:
        words = [
            "--model",
            "played",
            "--base-url",
            server.url,
            "--data",
            data,
            "--limit",
            3,
            "--samples",
            4,
            "--temperature",
            1,
        ]
        assert command(*words, "--out", tmp_path, "--no-controls") == 0
        assert len({body["seed"] for body in server.requests}) == len(server.requests) == 12
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert (
            summary["n"] == 3
            and summary["asked"] == 12
            and set(summary["samples"]["pass_at"]) == {"1", "2", "4"}
        )


def test_answering_through_a_url_needs_no_torch(split, tmp_path):
    code = (
        "import sys; from rft.evaluate import endpoint, retrieval, judging, run, statistics, comparison; "
        "import reward; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
