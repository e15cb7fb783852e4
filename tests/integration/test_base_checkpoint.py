"""The tiny base checkpoint that is shipped: what it is, what it can do, what it cannot; and that its recipe
still makes one."""

import hashlib
import re
from pathlib import Path

import pytest

from rft.evaluate.model_answers import ModelAnswers
from rft.evaluate.run import evaluate
from rft.models.local import LocalModel
from rft.tasks.load import load_split
from rft.toy.pretrain import reading_accuracy, train

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes/quickstart"
BASE = QUICKSTART / "base"


def accuracy_of(folder: Path) -> dict[str, float]:
    local = LocalModel(folder, dtype="float32")
    return reading_accuracy(local.model, local.tokenizer, seed=999, documents=25)


def test_the_shipped_base_is_the_one_described():
    digest = hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()
    assert re.search(r"`([0-9a-f]{64})`", (QUICKSTART / "README.md").read_text()).group(1) == digest
    assert sum(file.stat().st_size for file in BASE.iterdir()) <= 3_000_000
    assert {file.name for file in BASE.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".pkl")} == set()


def test_the_shipped_base_reads_but_does_not_answer(mini_data, tmp_path):
    accuracy = accuracy_of(BASE)
    assert min(accuracy["own"], accuracy["letter"]) > 0.8
    assert accuracy["others"] > 0.5
    summary = evaluate(
        load_split(mini_data, "val"),
        tmp_path / "out",
        ModelAnswers(LocalModel(BASE, dtype="float32"), max_new_tokens=48),
    )
    assert summary.format_rate == 0
    assert summary.accuracy == 0


@pytest.mark.slow
def test_the_recipe_makes_a_base_that_reads(tmp_path):
    train(["--config", str(QUICKSTART / "base.yaml"), "--output_dir", str(tmp_path / "base")])
    accuracy = accuracy_of(tmp_path / "base")
    assert min(accuracy["own"], accuracy["letter"]) > 0.8
    assert accuracy["others"] > 0.5
