"""Every file of examples/ and the snippets of docs/guides/python.md, run as a reader would."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest


@pytest.fixture
def here(mini_data, tmp_path, monkeypatch):
    """An empty folder with the data that the examples name."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/people").symlink_to(mini_data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(repository, monkeypatch, capsys):
    """Runs an example with these words and returns what it printed."""

    def run(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(str(repository / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_list_has_every_example(repository):
    listed = re.findall(r"^\| \[[\w.]+\]\(([\w.]+)\)", (repository / "examples/README.md").read_text(), re.M)
    files = {path.name for path in (repository / "examples").iterdir() if path.suffix in (".py", ".ipynb")}
    assert sorted(listed) == sorted(files)


def test_evaluate_a_model_in_ten_lines(here, run):
    said = run("evaluate_model.py")
    assert re.search(r"% right \(95 % interval .*\) of \d+ questions\n.*% without the history", said)
    assert (here / "out/example_evaluation/report.html").is_file()
    (here / "out/people").unlink()
    with pytest.raises(SystemExit, match="^error: out/people: no such folder.*; make it: rft simulate"):
        run("evaluate_model.py")


def test_a_reward_in_a_file(here, run, repository):
    scores = [line.split()[-1] for line in run("brief.py").splitlines()]
    assert scores == ["1.2", "1.0", "0.0", "0.0"]
    import reward

    loaded = reward.load(f"{repository}/examples/brief.py:brief")
    assert loaded(["A pot of green tea."], answer=[None], options=[()]) == [None]


def test_your_own_chats_to_a_memory(here, run):
    said = run("chats_to_memory.py")
    assert "ana: 6 messages" in said and "chunk 3 of 3" in said and "answer:" in said
    assert (here / "out/example_memory/chats/memory.md").is_file()
    (here / "other.jsonl").write_text('{"role": "user", "content": "I moved to Ulm."}\n')
    assert "other: 1 message" in run("chats_to_memory.py", "other.jsonl")  # beside the first
    with pytest.raises(SystemExit, match="^error: .*no.zip"):
        run("chats_to_memory.py", "no.zip")


def test_grpo_in_a_notebook(here, repository, capsys):
    cells = json.loads((repository / "examples/grpo.ipynb").read_text())["cells"]
    names: dict = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec("".join(cell["source"]), names)
    said = capsys.readouterr().out
    first, last = map(float, re.search(r"loss ([\d.]+) -> ([\d.]+)", said).groups())
    assert last < first / 4
    rewards = [float(reward) for reward in re.findall(r"step \d: reward ([\d.]+)", said)]
    assert len(rewards) == 3 and any(rewards)
    assert (here / "out/example_grpo/grpo/model.safetensors").is_file()


def test_the_prefix_tree_in_a_plain_grpo_trainer(here, repository):
    """float64 weights; TRL computes log-probs in float32, and transformers norms."""
    import torch
    from transformers import AutoModelForCausalLM

    example = runpy.run_path(str(repository / "examples/trl_prefix_tree.py"))
    text = (repository / "examples/trl_prefix_tree.py").read_text()
    assert sorted(re.findall(r"# (\d)$", text, re.M)) == ["1", "2", "3"]
    plain, tree = (example["trained"](str(here / name), name == "tree") for name in ("plain", "tree"))
    base = AutoModelForCausalLM.from_pretrained(example["BASE"], dtype=torch.float64)
    moved = 0.0
    for a, b, before in zip(*(t.parameters() for t in (plain.model, tree.model, base)), strict=True):
        assert (a - b).abs().max() < 1e-6
        moved = max(moved, (a - before).abs().max().item())
    assert moved > 1e-4
    ours, theirs = ([row["loss"] for row in t.state.log_history if "loss" in row] for t in (tree, plain))
    assert ours == pytest.approx(theirs, abs=1e-6) and len(ours) == 2


def test_the_snippets_of_the_guide(here, repository, capsys):
    page = (repository / "docs/guides/python.md").read_text()
    names: dict = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(snippet, names)
    said = capsys.readouterr().out
    assert "questions, prompts of up to" in said and "% right of 8" in said
    assert len(names["trainer"].state.log_history) > 1 and Path("out/ana.md").is_file()
