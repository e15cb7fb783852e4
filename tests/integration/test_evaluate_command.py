"""`rft evaluate` as a command: options, interruption, sweeps, W&B."""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
import wandb
from wandb_file import ended, read_run, records

from rft.errors import CheckpointError, DataError, ModelError
from rft.evaluate import command as evaluate_command
from rft.evaluate.command import add_arguments
from rft.evaluate.results import read_rows
from rft.evaluate.rules import RuleAnswers


def command(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return evaluate_command.run(parser.parse_args(words))


def test_command_with_a_model(checkpoint, data, tmp_path, capsys):
    words = ["--model", str(checkpoint), "--data", str(data), "--limit", "3", "--max-new-tokens", "4"]
    words += ["--context", "none", "--token-cache", str(tmp_path / "tokens"), "--out", str(tmp_path / "out")]
    assert command(*words) == 0
    said = capsys.readouterr().out
    assert "context none: 0.0% right" in said and str(tmp_path / "out" / "report.html") in said
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        ".lock",
        "run.json",
        "results.jsonl",
        "summary.json",
        "report.html",
    }


def test_command_names_a_checkpoint_without_tokenizer(checkpoint, data, tmp_path):
    bare = shutil.copytree(checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    with pytest.raises(CheckpointError, match=f"{bare}: no tokenizer in this checkpoint folder"):
        command("--model", str(bare), "--data", str(data), "--out", str(tmp_path / "out"))


def test_command_with_a_rule_says_what_it_ignores(data, tmp_path, caplog):
    words = ["--rule", "longest", "--data", str(data), "--out", str(tmp_path)]
    assert command(*words, "--context", "history", "--temperature", "1") == 0
    assert "--context is ignored" in caplog.text and "--temperature is ignored" in caplog.text
    assert json.loads((tmp_path / "summary.json").read_text())["model"] == "rule: longest option"


def test_ctrl_c_says_how_to_go_on(data, tmp_path, monkeypatch, capsys):
    answer, asked = RuleAnswers.answer, []

    def interrupted(self, questions, history=None):
        asked.append(len(questions))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(self, questions, history)

    words = ["--rule", "first", "--data", str(data), "--batch-size", "5", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(RuleAnswers, "answer", interrupted)
        assert command(*words) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    assert len(read_rows(tmp_path)) == 10 and not (tmp_path / "summary.json").exists()
    assert command(*words) == 0 and len(read_rows(tmp_path)) == 32


@pytest.mark.parametrize(
    "words", [["--limit", "0"], ["--batch-size", "x"], ["--temperature", "-1"], ["--rule", "first"]]
)
def test_command_refuses_bad_options(words, capsys):
    with pytest.raises(SystemExit):
        command("--model", "m", "--data", "d", "--out", "o", *words)
    assert words[0] in capsys.readouterr().err


def test_the_command_starts_without_torch():
    code = "import sys, rft.evaluate.command, rft.evaluate.comparison\n"
    code += "sys.exit(bool({'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_sweep_evaluates_each_checkpoint_and_draws_the_curve(checkpoint, data, tmp_path, capsys):
    for step in (20, 100, 3):
        shutil.copytree(checkpoint, tmp_path / "run" / f"checkpoint-{step}")
    words = [
        "--model",
        str(tmp_path / "run" / "checkpoint-*"),
        "--data",
        str(data),
        "--limit",
        "2",
        "--max-new-tokens",
        "4",
        "--no-controls",
    ]
    words += ["--token-cache", str(tmp_path / "tokens"), "--out", str(tmp_path / "out")]
    assert command(*words) == 0
    points = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [point["step"] for point in points] == [3, 20, 100] and all(point["n"] == 2 for point in points)
    assert (tmp_path / "out" / "checkpoint-20" / "summary.json").exists() and (
        tmp_path / "out" / "report.html"
    ).exists()
    with pytest.raises(DataError, match="no checkpoint folder matches this pattern"):
        command("--model", str(tmp_path / "nothing-*"), *words[2:])


def test_an_evaluation_goes_to_wandb_whole(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "out"
    try:
        assert command("--rule", "longest", "--data", str(data), "--track", "--out", str(out)) == 0
    finally:
        # else its service, named in the environment, serves the processes of later tests as one
        wandb.teardown()
    summary = json.loads((out / "summary.json").read_text())
    file = ended(next((out / "wandb").glob("offline-run-*/*.wandb")))
    config, history = read_run(file)
    assert config["data_sha256"] == summary["data_sha256"] and config["model"] == "rule: longest option"
    tables = {key.removesuffix(".nrows") for row in history for key in row if key.endswith(".nrows")}
    assert tables == {f"by/{category}" for category in summary["by"]}
    logged = {
        item.key or "/".join(item.nested_key): item.value_json
        for record in records(file)
        for item in record.summary.update
    }
    assert json.loads(logged["accuracy"]) == summary["accuracy"]
    artifacts = [
        record.artifact for record in records(file) if record.WhichOneof("record_type") == "artifact"
    ]
    # tables are artifacts too
    [artifact] = [artifact for artifact in artifacts if artifact.type == "evaluation"]
    assert {entry.path for entry in artifact.manifest.contents} == {
        "results.jsonl",
        "summary.json",
        "report.html",
        "run.json",
    }


def test_vllm_that_is_not_installed_is_told(checkpoint, data, tmp_path):
    words = ["--model", str(checkpoint), "--vllm", "--data", str(data), "--out", str(tmp_path / "out")]
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(ModelError, match="vLLM cannot be imported .* pip install 'rft.vllm.'"):
        command(*words)
