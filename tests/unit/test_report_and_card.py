"""What a training leaves for people: the report, the model card, the merged checkpoint."""

import json

import pandas as pd
import pytest
import torch

from rft.errors import CheckpointError, DataError
from rft.track import METRICS, read_metrics
from rft.train.card import write_card
from rft.train.identity import Identity
from rft.train.merge import check_loads, merge
from rft.train.panels import PANELS
from rft.train.report import write_report

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def run(tmp_path):
    """The output folder of a training, with what a killed run may leave at its end."""
    rows = [
        {
            "step": i,
            "time": i,
            "loss": 1 / i,
            "reward": i / 10,
            "reward_std": 0.1,
            "entropy": 1.0,
            "kl": 0.0,
            "step_time": 2.0,
            "accuracy/neutral_preferences": i / 10,
            "answer_letters/a": 0.5,
            "answer_letters/b": 0.5,
            "unparsed_rate": 0.25,
            "completions/mean_length": 20.0,
            "prefix_tree/token_ratio": 12.0,
        }
        for i in range(1, 6)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / METRICS).write_text(text + '{"step": 6, "rew')
    (tmp_path / "provenance.json").write_text(
        json.dumps({"git_commit": "abc", "versions": {"trl": "1.16.0"}, "data_sha256": "d"})
    )
    (tmp_path / "completions").mkdir()
    pd.DataFrame(
        {
            "step": [5, 5],
            "prompt": ["Which?", HOSTILE],
            "completion": ["\\boxed{a}", "\\boxed{b}"],
            "answer": ["a", "a"],
            "advantage": [1.0, -1.0],
        }
    ).to_parquet(tmp_path / "completions/completions_00005.parquet")
    return tmp_path


def test_the_report_shows_what_was_logged(run):
    assert len(read_metrics(run / METRICS)) == 5  # the line that was cut off is left out
    write_report(run, run / "page.html")
    page = (run / "page.html").read_text()
    assert page.count("<svg") >= 9
    for expected in (
        "5 steps; reward 0.100 at step 1, 0.500 at step 5",
        "25% of the newest answers",
        "Letters named",
        "Entropy",
        "trl 1.16.0",
        "abc",
        "Not logged by this run: ",
    ):
        assert expected in page
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page  # self-contained


def test_a_folder_without_metrics_is_named(tmp_path):
    with pytest.raises(DataError, match="no metrics.jsonl with a logged step"):
        write_report(tmp_path, tmp_path / "page.html")


def test_panels_have_names_of_their_own():
    names = [name for panels in PANELS.values() for name in panels]
    assert len(names) == len(set(names))


def test_the_card_says_what_was_recorded(tmp_path):
    identity = Identity(
        {"model_name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "data": "out/data", "learning_rate": 1e-6}, "d" * 64, 8
    )
    (tmp_path / "evaluate/benchmark").mkdir(parents=True)
    summary = {"accuracy": 0.538, "ci95": [0.52, 0.56], "n": 5000, "unparsed_rate": 0.01}
    (tmp_path / "evaluate/benchmark/summary.json").write_text(json.dumps(summary))
    write_card(tmp_path, identity, {"git_commit": "abc", "versions": {"trl": "1.16.0"}})
    card = (tmp_path / "README.md").read_text()
    for expected in (
        "base_model: Qwen/Qwen3-4B-Instruct-2507",
        "d" * 64,
        identity.recipe_sha256,
        "learning_rate: 1.0e-06",
        "trl | 1.16.0",
        "| benchmark | 53.8% [52.0%, 56.0%] | 5000 | 1.0% |",
    ):
        assert expected in card


def test_an_adapter_is_merged_into_what_it_was(tiny_checkpoint, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, adapted.eval()(ids).logits, atol=1e-4)
    with pytest.raises(CheckpointError, match="is not empty"):
        merge(tmp_path / "adapter", tmp_path / "merged")
    with pytest.raises(CheckpointError, match="no adapter_config.json"):
        merge(tmp_path / "merged", tmp_path / "again")
    config = json.loads((tmp_path / "merged/config.json").read_text())
    (tmp_path / "merged/config.json").write_text(json.dumps({**config, "architectures": ["Strange"]}))
    with pytest.raises(CheckpointError, match="Strange"):
        check_loads(tmp_path / "merged")
