"""`make quickstart MEMORY=1` in small: every stage runs, is not repeated, and stands in the report."""

import json
import shutil

import pytest
import yaml

from rft.cli import main
from rft.toy import quickstart

SMALL = {
    "max_steps": 1,
    "per_device_train_batch_size": 96,
    "save_steps": 1,
    "num_generations": 4,
    "held_out_questions": 8,
}


@pytest.fixture
def small(repository, tmp_path, monkeypatch):
    """Forty-five people, and the recipes with one step each."""
    recipes = tmp_path / "recipes"
    shutil.copytree(repository / "recipes/quickstart", recipes)
    for recipe in recipes.glob("*.yaml"):
        fields = yaml.safe_load(recipe.read_text())
        recipe.write_text(yaml.safe_dump(fields | {key: SMALL[key] for key in SMALL.keys() & fields.keys()}))
    monkeypatch.setattr(quickstart, "RECIPES", recipes)
    monkeypatch.setattr(quickstart, "PERSONAS", 45)
    monkeypatch.setattr(quickstart, "MEMORY_QUESTIONS", 8)


def test_every_stage_of_the_quickstart_runs_once_and_is_reported(small, tmp_path, capfd):
    out = tmp_path / "out"
    assert main(["quickstart", "--out", str(out)]) == 0
    seconds = json.loads((out / "stages.json").read_text())["seconds"]
    assert main(["quickstart", "--out", str(out), "--memory"]) == 0  # goes on from there
    stages = json.loads((out / "stages.json").read_text())["seconds"]
    assert seconds.items() <= stages.items() and len(seconds) == 7
    assert list(stages)[7:] == [
        "memory_sft",
        "evaluate memory_sft",
        "memory_grpo",
        "evaluate memory",
        "evaluate forget",
    ]
    summary = json.loads((out / "summary.json").read_text())
    seen = {name: summary[name]["context"] for name in ("grpo", "blind", "memory_sft", "memory", "forget")}
    assert seen == {
        "grpo": "history",
        "blind": "none",
        "memory_sft": "memory",
        "memory": "memory",
        "forget": "memory",
    }
    assert summary["memory"]["n"] == summary["memory_sft"]["n"] == 8 and summary["grpo"]["n"] > 8
    assert summary["memory"]["lines"]["targets"] == summary["memory_sft"]["lines"]["targets"] > 0
    assert summary["memory"]["reader"]["n"] == 8
    assert summary["grpo"]["input_tokens_per_question"] > 2 * summary["memory"]["input_tokens_per_question"]
    assert "forgotten" in summary["forget"]
    report = (out / "report.html").read_text()
    assert "From its memory alone" in report and "memory GRPO" in report
    assert "already done" in capfd.readouterr().out
