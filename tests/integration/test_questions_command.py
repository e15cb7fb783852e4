"""`rft questions write` as a command: budget, interruption, a second writer, a server that refuses."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peculiar import Call, peculiar
from question_llm import QuestionLlm, settings, written

from rft.cli import main
from rft.errors import DataError, ServerError
from rft.tasks.questions.pipeline import write_questions


def command(chats: Path, url: str, *more: str) -> list[str]:
    words = [
        "questions",
        "write",
        "--chats",
        str(chats),
        "--out",
        str(chats.parent / "out"),
        "--workers",
        "2",
    ]
    words += [
        "--llm-base-url",
        url,
        "--llm-model",
        "played",
        "--llm-price",
        "2",
        "8",
        "--held-out-users",
        "0.25",
    ]
    return [*words, *more]


def test_a_budget_is_hard_and_the_rest_is_written_later(
    chats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with peculiar(QuestionLlm()) as server:
        limit = ["--llm-max-new-tokens", "400"]
        assert main(command(chats, server.url, *limit, "--llm-budget", "0.02")) == 2
        assert "raise --llm-budget and run the same command again to resume" in capsys.readouterr().err
        paid = sum(server.paid.values())
        spent = sum(map(float, (chats.parent / ".out.paid/spent.txt").read_text().split()))
        assert 5 < paid and spent <= 0.02 and not (chats.parent / "out").exists()
        assert main(command(chats, server.url, *limit, "--llm-budget", "0.02")) == 2  # it is remembered
        assert sum(server.paid.values()) <= paid + 1  # the test of the limit on lengths
        capsys.readouterr()
        assert main(command(chats, server.url, *limit, "--llm-budget", "5")) == 0
        twice = {prompt for prompt, times in server.paid.items() if times > 1}
        assert len(twice) <= 1 and all("Countfromone" in prompt for prompt in twice)
        made = json.loads((chats.parent / "out/dataset.json").read_text())["made"]
        assert made["usage"]["calls"] == len(server.paid) - 1


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_without_paying_twice(chats: Path, sent: signal.Signals, repository: Path) -> None:
    llm = QuestionLlm()

    def slow(call: Call) -> None:
        time.sleep(0.02)
        llm(call)

    with peculiar(slow) as server:
        words = [sys.executable, "-m", "rft.cli", *command(chats, server.url)]
        process = subprocess.Popen(
            words,
            cwd=repository,
            stderr=subprocess.PIPE,
            text=True,
            # a shell that starts the tests in the background ignores SIGINT for all its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while process.poll() is None and sum(server.paid.values()) < 20:
            time.sleep(0.01)
        process.send_signal(sent)
        error = process.communicate()[1]
        assert process.returncode == (130 if sent == signal.SIGINT else -sent), error
        if sent == signal.SIGINT:
            resumes = "stopped; every reply that was paid for is kept; run the same command again to resume"
            assert error.strip().endswith(resumes)
        assert sum(server.paid.values()) >= 20 and not (chats.parent / "out").exists()
        assert main(command(chats, server.url)) == 0
        twice = sum(times - 1 for times in server.paid.values())
        assert twice <= (2 if sent == signal.SIGKILL else 0), "at most what was on its way to two workers"
        first = {p.name: p.read_bytes() for p in (chats.parent / "out").glob("*.json*")}
        assert main([*command(chats, server.url), "--out", str(chats.parent / "again")]) == 0
    again = {p.name: p.read_bytes() for p in (chats.parent / "again").glob("*.json*")}
    assert first == again and {"train.jsonl", "dataset.json"} <= first.keys()


def test_a_second_command_is_refused(chats: Path) -> None:
    from rft.single_writer import only_writer

    with (
        only_writer(chats.parent / "out", "command"),
        pytest.raises(DataError, match="another command writes"),
    ):
        written(chats, QuestionLlm())


def test_a_server_that_refuses_everything_loses_nothing(chats: Path) -> None:
    with pytest.raises(ServerError):
        with peculiar(lambda call: call.refuse("no", 401)) as server:
            write_questions(chats, chats.parent / "out", settings(server.url))
    assert sum(written(chats, QuestionLlm())["questions"].values()) == 16
