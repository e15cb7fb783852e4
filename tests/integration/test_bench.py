"""`rft bench` measures real runs: its figures are there, agree with one another, and its paths with each other."""

import argparse
import json

import pytest
import torch

from rft import bench
from rft.errors import ModelError

SHAPE = "--prompt-tokens 48 --questions 2 --question-tokens 20 --generations 3 --completion-tokens 5"


def figures(tmp_path, words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    path = tmp_path / "out" / "figures.json"
    assert bench.run(parser.parse_args([*words.split(), *SHAPE.split(), "--json", str(path)])) == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize("options", ["", "--checkpointing", "--lora"])
def test_update(options, tmp_path, capsys):
    found = figures(tmp_path, f"update {options}")
    assert found["token_ratio"] == 6 * 73 / (48 + 2 * (20 + 3 * 5))
    assert 1 < found["ceiling"] < found["token_ratio"]
    assert found["max_logprob_error"] < 1e-5 and found["max_grad_rel_error"] < 1e-4
    assert found["speedup"] == found["plain_seconds"] / found["tree_seconds"]
    assert found["speedup_over_trl"] == found["trl_seconds"] / found["tree_seconds"]
    assert {"plain_peak_bytes", "tree_peak_bytes", "trl_peak_bytes", "versions", "device"} <= found.keys()
    assert "stock TRL" in capsys.readouterr().out


def test_memory_trajectories(tmp_path, capsys):
    found = figures(tmp_path, "memory --chunks 2 --memory-tokens 30")
    plain = 3 * (48 + 30) + 3 * (48 + 30 + 30) + 2 * 3 * (30 + 20 + 5)
    tree = 48 + 3 * 30 + 48 + 3 * 60 + 2 * 3 * (30 + 20 + 5)  # a memory of 30 tokens is repeated: sharing it saves too little
    assert found["token_ratio"] == pytest.approx(plain / tree)
    assert found["max_logprob_error"] < 1e-5 and found["max_grad_rel_error"] < 1e-4
    assert found["speedup"] == found["plain_seconds"] / found["tree_seconds"]
    assert "T=2 M=30" in capsys.readouterr().out


def test_rollout(tmp_path, capsys):
    found = figures(tmp_path, "rollout")
    assert found["max_logprob_error"] < 1e-4
    assert found["speedup"] == found["stock_seconds"] / found["tree_seconds"]
    assert {"stock_peak_bytes", "tree_peak_bytes"} <= found.keys()
    assert "transformers generate" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["update", "rollout"])
def test_the_tree_alone(what, tmp_path):
    found = figures(tmp_path, f"{what} --tree-only")
    assert found["tree_seconds"] > 0 and not {"speedup", "plain_seconds", "stock_seconds"} & found.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a device is there")
def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="sees no CUDA device"):
        figures(tmp_path, "update --device cuda")


def test_the_models_have_the_sizes_they_are_named_for():
    shape = bench.MODELS["qwen3-4b"]
    heads, keys = (shape[name] * shape["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    layer = shape["hidden_size"] * (2 * heads + 2 * keys + 3 * shape["intermediate_size"])
    total = layer * shape["num_hidden_layers"] + shape["hidden_size"] * shape["vocab_size"]
    assert 3.9e9 < total < 4.1e9
