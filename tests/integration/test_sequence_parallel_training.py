"""Processes that train the same rows together train as one process does, in float64; killed and resumed, bit
for bit."""

import math
from pathlib import Path

import pytest
import torch
from runs import Server, assert_same, left, zero
from safetensors.torch import load_file
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


SHORT = {("two", "sft"), ("two groups of two", "grpo"), ("zero3", "memory_grpo")}
"""Every way and every recipe once; the others are slow."""


@pytest.mark.parametrize(
    ("way", "recipe"),
    [
        pytest.param(way, recipe, marks=() if (way, recipe) in SHORT else pytest.mark.slow)
        for way in WAYS
        for recipe in WORDS
    ],
)
def test_five_steps_are_those_of_one_process(server, alone, tmp_path, way, recipe):
    """DeepSpeed computes in float32, so ZeRO-3 is held to what float32 can show."""
    processes, env, groups = WAYS[way]
    found, said = five_steps(server, tmp_path / "run", recipe, processes, env, ROWS[recipe] // groups, *SP)
    expected, rounded = alone(recipe), way == "zero3"
    near = {"rel_tol": 1e-4, "abs_tol": 1e-5} if rounded else {"rel_tol": 1e-6, "abs_tol": 1e-8}
    for ours, theirs in zip(expected["metrics"], found["metrics"], strict=True):
        for name in ("loss", "grad_norm", "reward", "num_tokens", "completions/mean_length"):
            assert (name in ours) == (name in theirs), name
            assert math.isclose(ours.get(name, 0), theirs.get(name, 0), **near), name
    assert any(row.get("grad_norm", 0) > 1e-3 for row in expected["metrics"])
    if rounded:
        first = vector(load_file(server.model / "model.safetensors"))
        moved = (vector(expected["weights"]) - first).norm()
        assert (vector(found["weights"]) - vector(expected["weights"])).norm() < 1e-3 * moved
    else:
        assert vector(found["weights"]).dtype == torch.float64
        assert (vector(found["weights"]) - vector(expected["weights"])).abs().max() < 1e-8
    assert f"tokens are spread over {groups} group{'s' * (groups > 1)} of 2 processes" in said


@pytest.mark.slow
def test_five_steps_of_an_adapter_are_those_of_one_process(server, tmp_path):
    words = ("--use_peft", "true", "--lora_target_modules", "all-linear", "--lora_dropout", "0")
    words += ("--gradient_checkpointing", "true")
    alone, _ = five_steps(server, tmp_path / "alone", "grpo", 1, {}, ROWS["grpo"], *words)
    found, _ = five_steps(server, tmp_path / "run", "grpo", 2, {}, ROWS["grpo"], *words, *SP)
    assert (vector(found["weights"]) - vector(alone["weights"])).abs().max() < 1e-8


def test_a_killed_run_resumes_bit_for_bit(server, tmp_path):
    """Killed in its third step; each process of the group draws half of the completions."""
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
    said = [row["completion"] for row in expected["completions"] if row["step"] == 1]
    assert len(said) == 16 and len(set(said)) == 16, "processes of a group draw alike"
    key = "sampling/logp_difference_max"
    off = [row[key] for row in expected["metrics"] if key in row]
    assert off and max(off) < 1e-6, "the group samples what it trains"  # sampled ones are kept in float32


@pytest.mark.parametrize(
    ("number", "status"),
    [("SIGKILL", 70), pytest.param("SIGSTOP", 76, marks=pytest.mark.slow)],  # 76: by the stall limit
    ids=["dies", "hangs"],
)
def test_a_process_that_dies_or_hangs_ends_the_others(server, tmp_path, number, status):
    """Its group waits for it in an all-to-all; no launcher ends the others here."""
    kill = {"in": "training_step", "call": 1, "rank": 1, "signal": number, "others": "left"}
    words = ["--dtype", "auto", "--max_steps", "9", "--save_strategy", "no", "--stall_minutes", "0.2", *SP]
    if number == "SIGSTOP":
        kill.pop("others")  # the launcher ends it when the others have left
    done = server.run(tmp_path / "run", *words, processes=2, kill=kill)
    assert done["statuses"] == [status, -9], done["said"]


def vector(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])
