"""One process, two under DDP and two under ZeRO-3 train alike, with sharing on and off: the same losses and
weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
STEPS = 5
LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--main_process_port",
    "0",
]
DDP = ("--multi_gpu",)  # accelerate's word for several processes; without a GPU they talk through gloo
ZERO3 = ("--use_deepspeed", "--zero_stage", "3", "--zero3_save_16bit_model", "true")
# activations held
LESS = (
    *("--mlp_tile_tokens", "300", "--gradient_checkpointing", "true"),
    *("--offload_checkpoints", "true", "--keep_attention", "true"),
)


def run(
    out: Path, data: Path, model: Path, launch: tuple[str, ...], *words: str, recipe: str = "grpo"
) -> list[dict]:
    """What a run of five steps logs; two processes unless `launch` is empty."""
    processes = 2 if launch else 1
    command = [
        *LAUNCH,
        *(launch or ("--cpu",)),
        "--num_processes",
        str(processes),
        str(HERE / "fixed_rollouts.py"),
        "--config",
        str(HERE.parents[1] / f"recipes/quickstart/{recipe}.yaml"),
        "--data",
        str(data),
        "--model_name_or_path",
        str(model),
        "--output_dir",
        str(out),
        "--token_cache",
        str(out.parent / "tokens"),
        "--log_completions",
        "false",
        "--rewards",
        f"{HERE / 'fixed_rollouts.py'}:length",
        "--max_steps",
        str(STEPS),
        "--max_completion_length",
        "16",
        "--num_generations",
        "4",
        "--per_device_train_batch_size",
        str(32 // processes),
        "--learning_rate",
        "1e-3",
        "--save_strategy",
        "no",
        *words,
    ]
    env = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=out.parent, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("2 processes" in done.stderr) == (processes == 2), done.stderr
    return [
        entry
        for entry in json.loads((out / "trainer_state.json").read_text())["log_history"]
        if "loss" in entry
    ]


@pytest.fixture(scope="module")
def one(mini_data, tiny_checkpoint, tmp_path_factory) -> tuple[list[dict], dict]:
    out = tmp_path_factory.mktemp("one") / "run"
    return run(out, mini_data, tiny_checkpoint, ()), load_file(out / "model.safetensors")


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ((), ("--prefix_sharing", "off")),
        (DDP, ()),
        (DDP, ("--max_tree_tokens", "1200")),
        (ZERO3, ()),
        (ZERO3, ("--max_tree_tokens", "1200")),
        (ZERO3, ("--prefix_sharing", "off")),
        (ZERO3, LESS),
    ],
    ids=["plain", "ddp", "ddp-parts", "zero3", "zero3-parts", "zero3-plain", "zero3-less"],
)
def test_every_way_of_launching_trains_alike(one, mini_data, tiny_checkpoint, tmp_path, launch, words):
    log, weights = one
    other = run(tmp_path / "run", mini_data, tiny_checkpoint, launch, *words)
    assert len(other) == len(log) == STEPS
    assert any(abs(entry["loss"]) > 1e-3 for entry in log)
    for ours, theirs in zip(log, other, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-5)
        assert theirs["reward"] == pytest.approx(ours["reward"], abs=1e-5)
    for name, tensor in load_file(tmp_path / "run" / "model.safetensors").items():
        assert (tensor - weights[name]).abs().max() < 1e-3, name


REDRAWN = tuple(f"redraw/{name}" for name in ("flat_before", "flat_after", "rounds", "completions"))
MEMORY = (
    *("--chunk_tokens", "120", "--memory_tokens", "16", "--held_out_steps", "1000", "--num_generations", "2"),
    *("--questions_per_history", "2", "--memory_rewards", "reward.memory.within_budget"),
    *("--memory_reward_weights", "0.2"),
)


@pytest.mark.parametrize("processes", [DDP, ZERO3], ids=["ddp", "zero3"])
def test_two_processes_train_a_memory_alike(mini_data, tiny_checkpoint, tmp_path, processes):
    """Histories differ in chunks, so the processes have different numbers of turns, and of parts."""
    logs, weights = [], []
    for launch in ((), processes):
        out = tmp_path / f"run_{len(logs)}"
        size = ("--per_device_train_batch_size", str(4 if launch else 8), "--max_tree_tokens", "600")
        logs.append(run(out, mini_data, tiny_checkpoint, launch, *MEMORY, *size, recipe="memory_grpo"))
        weights.append(load_file(out / "model.safetensors"))
    assert any(abs(entry["loss"]) > 1e-3 for entry in logs[0])
    for ours, theirs in zip(*logs, strict=True):
        for name in ("loss", "reward", "memory/updates", "num_tokens", "right/all"):
            assert theirs[name] == pytest.approx(ours[name], abs=1e-5), name
    assert max((tensor - weights[1][name]).abs().max() for name, tensor in weights[0].items()) < 1e-3


@pytest.mark.parametrize("recipe", ["grpo", "memory_grpo"])
def test_two_processes_redraw_alike(mini_data, tiny_checkpoint, tmp_path, recipe):
    """Each has other flat groups, and different numbers of them."""
    logs, rewards = [], ("--rewards", f"{HERE / 'fixed_rollouts.py'}:length_or_not", "--redraw_rounds", "2")
    for launch in ((), DDP):
        out = tmp_path / f"run_{len(logs)}"
        size = (*MEMORY, "--per_device_train_batch_size", str(4 if launch else 8))
        size = size if recipe == "memory_grpo" else ()
        logs.append(run(out, mini_data, tiny_checkpoint, launch, *size, *rewards, recipe=recipe))
    for ours, theirs in zip(*logs, strict=True):
        for name in ("loss", "reward", "num_tokens", *REDRAWN):
            assert theirs[name] == pytest.approx(ours[name], abs=1e-5), name
    assert any(entry["redraw/flat_after"] < entry["redraw/flat_before"] for entry in logs[0])
    assert any(abs(entry["loss"]) > 1e-3 for entry in logs[0])


def test_muon_is_refused_where_matrices_are_shared_out(mini_data, tiny_checkpoint, tmp_path):
    command = [
        *LAUNCH,
        *ZERO3,
        "--num_processes",
        "2",
        "-m",
        "rft.train.sft",
        "--config",
        str(HERE.parents[1] / "recipes/quickstart/sft.yaml"),
        "--data",
        str(mini_data),
        "--model_name_or_path",
        str(tiny_checkpoint),
        "--output_dir",
        str(tmp_path / "run"),
        "--muon",
        "true",
    ]
    env = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode
    assert "muon: true: Muon needs complete matrices, but DeepSpeed and FSDP shard them" in done.stderr
    assert "rft/train/sft.py" not in done.stderr  # no traceback of ours
    assert not list(tmp_path.rglob("*.safetensors"))
