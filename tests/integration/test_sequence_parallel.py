"""Processes that train the same rows together train as one process does, in float64; killed and resumed, bit
for bit."""

import math
from pathlib import Path

import pytest
import torch
from runs import Server, assert_same, left, zero
from transformers import AutoModelForCausalLM, AutoTokenizer

FIXED = [
    "--rewards",
    f"{Path(__file__).with_name('fixed_rollouts.py')}:length",
    "--max_completion_length",
    "16",
]
FIVE = ["--dtype", "auto", "--max_steps", "5", "--save_strategy", "no", "--logging_steps", "1"]
FIVE += ["--learning_rate", "1e-3", "--warmup_steps", "0"]
WORDS = {
    "grpo": [*FIVE, *FIXED],
    # 8 questions: a history occurs once, as the n-th completion of a prompt is the same in every process
    "memory_grpo": [
        *FIVE,
        *FIXED,
        "--max_tree_tokens",
        "2000",
        "--held_out_steps",
        "1000",
        "--questions_per_history",
        "8",
    ],
    "sft": [*FIVE, "--questions_per_history", "2"],
}
ROWS = {"grpo": 16, "memory_grpo": 8, "sft": 16}
WAYS = {"two": (2, {}, 1), "two groups of two": (4, {}, 2), "zero3": (2, zero(3), 1)}
SP = ["--sequence_parallel", "2"]


@pytest.fixture(scope="module")
def server(mini_data, tiny_checkpoint, tmp_path_factory):
    """Its model is float64, and Qwen3 with one key head: the two processes repeat it."""
    folder = tmp_path_factory.mktemp("sequence")
    AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float64).save_pretrained(folder / "m")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(folder / "m")
    server = Server(folder, mini_data, folder / "m")
    yield server
    server.close()


def five_steps(server: Server, out: Path, recipe: str, processes: int, env: dict, rows: int, *words: str):
    size = ("--per_device_train_batch_size", str(rows))
    done = server.run(
        out, *WORDS[recipe], *size, *words, recipe=recipe, processes=processes, env=env, fixed=True
    )
    assert done["statuses"] == [0] * processes, done["said"]
    return left(out), done["said"]


@pytest.fixture(scope="module")
def alone(server):
    runs = {}

    def run(recipe):
        if recipe not in runs:
            runs[recipe], _ = five_steps(server, server.folder / recipe, recipe, 1, {}, ROWS[recipe])
        return runs[recipe]

    return run


@pytest.mark.parametrize("recipe", WORDS)
@pytest.mark.parametrize("way", WAYS)
def test_five_steps_are_those_of_one_process(server, alone, tmp_path, recipe, way):
    processes, env, groups = WAYS[way]
    found, said = five_steps(server, tmp_path / "run", recipe, processes, env, ROWS[recipe] // groups, *SP)
    expected = alone(recipe)
    for ours, theirs in zip(expected["metrics"], found["metrics"], strict=True):
        for name in ("loss", "grad_norm", "reward", "num_tokens", "completions/mean_length"):
            assert (name in ours) == (name in theirs), name
            assert math.isclose(ours.get(name, 0), theirs.get(name, 0), rel_tol=1e-6, abs_tol=1e-8), name
    assert any(row.get("grad_norm", 0) > 1e-3 for row in expected["metrics"])
    for name, tensor in expected["weights"].items():
        assert tensor.dtype == torch.float64
        assert (tensor - found["weights"][name]).abs().max() < 1e-8, name
    assert f"tokens are spread over {groups} group{'s' * (groups > 1)} of 2 processes" in said


def test_a_killed_run_resumes_bit_for_bit(server, tmp_path):
    """Killed in its third rollout; each process of the group draws half of the completions."""
    words = ["--dtype", "auto", "--max_steps", "4", "--save_steps", "2", "--logging_steps", "1", *SP]
    words += ["--steps_per_generation", "2", "--gradient_accumulation_steps", "1", "--learning_rate", "1e-3"]
    done = server.run(tmp_path / "whole", *words, processes=2)
    assert done["statuses"] == [0, 0], done["said"]
    expected, out = left(tmp_path / "whole"), tmp_path / "run"
    killed = server.run(out, *words, processes=2, kill={"in": "training_step", "call": 3, "rank": 1})
    assert -9 in killed["statuses"] and (out / "checkpoint-2").is_dir()
    done = server.run(out, *words, "--resume_from_checkpoint", "true", processes=2)
    assert done["statuses"] == [0, 0], done["said"]
    assert_same(left(out), expected)
    said = [row["completion"] for row in expected["completions"]]
    assert len(set(said)) > len(said) / 2, "processes of a group draw alike"
