"""What a machine can lack, said in one line and before the work: a network, a W&B account, a folder of its
own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

RFT = [sys.executable, "-m", "rft.cli"]


def run(*words: str, **env: str | None) -> subprocess.CompletedProcess:
    """A command with variables set, or taken out of the environment (None)."""
    left = {name: value for name, value in (os.environ | env).items() if value is not None}
    return subprocess.run([*RFT, *words], text=True, capture_output=True, env=left, timeout=120)


def one_line(done: subprocess.CompletedProcess) -> str:
    """The error of a command that a user can mend."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def no_network(tmp_path: Path) -> dict[str, str | None]:
    """A Hub that nothing answers for, and an empty cache."""
    return {"HF_HUB_OFFLINE": None, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache")}


def test_a_model_of_the_hub_without_a_network(mini_data, tmp_path, no_network):
    words = ["--data", str(mini_data), "--out", str(tmp_path / "out")]
    said = one_line(run("evaluate", "--model", "Qwen/Qwen3-4B", *words, **no_network))
    assert said.startswith("error: Qwen/Qwen3-4B: no such folder, not in the cache (")
    assert "http://127.0.0.1:9 does not answer" in said


def test_a_dataset_of_the_hub_without_a_network(tmp_path, no_network):
    said = one_line(
        run(
            "evaluate",
            "--rule",
            "longest",
            "--data",
            "bowen-upenn/PersonaMem-v2",
            "--out",
            str(tmp_path / "out"),
            **no_network,
        )
    )
    assert said.startswith("error: bowen-upenn/PersonaMem-v2: no such folder, not in the cache (")


def test_a_hub_that_does_not_answer_is_asked_once(no_network, monkeypatch):
    from huggingface_hub import constants

    from rft import hub

    for name, value in no_network.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    asked = []

    def refused(*words, **more):
        asked.append(words)
        raise OSError("no route")

    monkeypatch.setattr(hub.socket, "create_connection", refused)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.reachable.cache_clear()
    try:
        assert [hub.local_only("Qwen/Qwen3-4B") for _ in range(3)] == [True] * 3 and len(asked) == 1
    finally:
        hub.reachable.cache_clear()


@pytest.mark.parametrize("command", ["grpo", "evaluate", "quickstart"])
def test_wandb_without_a_key_is_said_first(command, repository, mini_data, tmp_path):
    words = {
        "grpo": [
            "--config",
            str(repository / "recipes/quickstart/grpo.yaml"),
            "--model_name_or_path",
            "nothing/there",
            "--output_dir",
            str(tmp_path / "out"),
            "--report_to",
            "wandb",
        ],
        "evaluate": [
            "--rule",
            "longest",
            "--data",
            str(mini_data),
            "--track",
            "--out",
            str(tmp_path / "out"),
        ],
        "quickstart": ["--out", str(tmp_path / "out"), "--track"],
    }[command]
    said = one_line(run(command, *words, HOME=str(tmp_path), WANDB_MODE=None, WANDB_API_KEY=None))
    assert "no API key is known" in said and "WANDB_MODE=offline" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("profile", ["mini", "middle"])
def test_two_simulations_into_one_folder(profile, repository, tmp_path):
    out = tmp_path / "data"
    of_profile = {
        "mini": ["--personas", "200"],
        "middle": ["--personas", "20", "--tokenizer", str(repository / "recipes/quickstart/base")],
    }
    words = ["simulate", "--profile", profile, *of_profile[profile], "--out", str(out)]
    with subprocess.Popen(
        [*RFT, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as first:
        lock = tmp_path / ".data.lock"
        while not lock.exists() and first.poll() is None:
            time.sleep(0.01)
        second = run(*words)
        assert first.wait() == 0, first.stdout.read()
    assert (
        f"error: {out}: another simulation writes to this folder" in second.stderr and second.returncode == 2
    )
    assert len(list((out / "data/chat_history_32k").iterdir())) >= 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    if profile == "mini":
        alone = tmp_path / "alone"
        assert run("simulate", "--personas", "200", "--out", str(alone)).returncode == 0
        files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
        assert all((alone / file).read_bytes() == (out / file).read_bytes() for file in files)
    assert json.loads(next((out / "data/chat_history_32k").iterdir()).read_text())["chat_history"]


@pytest.mark.parametrize("command", ["grpo", "simulate", "quickstart", "memory write", "evaluate"])
def test_a_folder_that_cannot_be_made(command, repository, mini_data, tmp_path):
    (tmp_path / "file").write_text("")
    out, base = str(tmp_path / "file/out"), str(repository / "recipes/quickstart/base")
    words = {
        "grpo": [
            "--config",
            str(repository / "recipes/quickstart/grpo.yaml"),
            "--model_name_or_path",
            base,
            "--output_dir",
            out,
            "--data",
            str(mini_data),
        ],
        "simulate": ["--personas", "3", "--out", out],
        "quickstart": ["--out", out],
        "memory write": [
            "--model",
            base,
            "--history",
            str(next((mini_data / "data/chat_history_32k").iterdir())),
            "--out",
            out,
        ],
        "evaluate": ["--rule", "longest", "--data", str(mini_data), "--out", out],
    }[command]
    said = one_line(run(*command.split(), *words))
    assert said.startswith(f"error: {tmp_path / 'file'}") and (
        "Not a directory" in said or "File exists" in said
    )


def test_nothing_wraps_at_80_columns_in_a_pipe(tmp_path):
    short = run("simulate", "--personas", "30", "--out", str(tmp_path / "x"), COLUMNS=None)
    assert "questions: train 200, val 16, benchmark 24, forget 16" in short.stdout


def test_an_evaluation_without_a_model_here_needs_no_torch(mini_data, tmp_path):
    words = [
        "evaluate",
        "--rule",
        "longest",
        "--data",
        str(mini_data),
        "--limit",
        "4",
        "--out",
        str(tmp_path / "out"),
    ]
    code = (
        f"import sys; from rft.cli import main; assert main({words}) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
