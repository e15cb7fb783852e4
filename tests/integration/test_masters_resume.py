"""No weight is trained in half precision alone: at a learning rate of fine-tuning nearly all weights move, in
every layout."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from runs import Server, assert_same, left, zero
from safetensors.torch import load_file

from rft.models.loading import load_model

HALF = ["--dtype", "bfloat16", "--bf16", "true"]
STEPS = [
    "--max_steps",
    "3",
    "--save_steps",
    "1",
    "--logging_steps",
    "1",
    "--learning_rate",
    "5e-6",
    "--warmup_steps",
    "0",
    "--lr_scheduler_type",
    "constant",
]
RESUME = ["--resume_from_checkpoint", "true"]
ZERO2 = zero(2)
LAYOUTS = {"one": (1, None), "ddp": (2, None), "zero2": (2, ZERO2)}


@pytest.fixture(scope="module")
def server(mini_data, tiny_checkpoint, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("masters"), mini_data, tiny_checkpoint)
    yield server
    server.close()


@pytest.fixture(scope="module", params=LAYOUTS)
def run(request, server) -> tuple[Path, int, dict | None]:
    """The output folder of three steps in a layout, its processes and environment."""
    processes, env = LAYOUTS[request.param]
    out = server.folder / request.param
    done = server.run(out, *STEPS, *HALF, processes=processes, env=env)
    assert done["statuses"] == [0] * processes, done["said"]
    return out, processes, env


def masters(checkpoint: Path, zero: bool) -> dict[str, torch.Tensor]:
    return (
        get_fp32_state_dict_from_zero_checkpoint(str(checkpoint))
        if zero
        else load_file(checkpoint / "model.safetensors")
    )


def share_moved(weights: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> float:
    moved = sum((weights[name].to(tensor.dtype) != tensor).sum().item() for name, tensor in start.items())
    return moved / sum(tensor.numel() for tensor in start.values())


def test_nine_weights_of_ten_move_in_three_steps(run, tiny_checkpoint):
    out, _, env = run
    start = {
        name: tensor.bfloat16().float()
        for name, tensor in load_file(tiny_checkpoint / "model.safetensors").items()
    }
    kept = masters(out / "checkpoint-3", zero=env is not None)
    assert {tensor.dtype for name, tensor in kept.items() if name in start} == {torch.float32}
    assert share_moved(kept, start) >= 0.9
    final = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in final.values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert all(torch.equal(tensor, kept[name].bfloat16()) for name, tensor in final.items())
    # what the rounding hides: steps that bfloat16 weights alone would never have made
    assert share_moved(final, start) < 0.2


def test_a_killed_run_resumes_from_its_masters_bit_for_bit(run, server, tmp_path):
    whole, processes, env = run
    out = tmp_path / "run"
    killed = server.run(
        out, *STEPS, *HALF, processes=processes, env=env, kill={"in": "training_step", "call": 3}
    )
    assert -9 in killed["statuses"]
    done = server.run(out, *STEPS, *HALF, *RESUME, processes=processes, env=env)
    assert done["statuses"] == [0] * processes, done["said"]
    assert "resume: " in done["said"] and "checkpoint-2" in done["said"]
    assert_same(left(out), left(whole))
    ours, theirs = (masters(folder / "checkpoint-3", zero=env is not None) for folder in (out, whole))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("words", [["--dtype", "bfloat16"], ["--dtype", "auto"]])
def test_bfloat16_weights_without_masters_are_refused(server, tiny_checkpoint, tmp_path, words):
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    load_model(str(model), dtype="bfloat16").save_pretrained(model)
    done = server.run(tmp_path / "run", *STEPS, *words, "--model_name_or_path", str(model))
    assert done["statuses"] == [2], done["said"]
    assert (
        "error: dtype bfloat16 with bf16: false would train bfloat16 weights without masters" in done["said"]
    )
    assert "set bf16: true (float32 masters, bfloat16 compute), or dtype: float32" in done["said"]
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_deepspeed_says_that_a_float32_recipe_ends_in_half_precision(server, tmp_path):
    words = ["--max_steps", "1", "--dtype", "float32", "--bf16", "true"]
    done = server.run(tmp_path / "run", *words, processes=2, env=ZERO2)
    assert done["statuses"] == [0, 0], done["said"]
    assert (
        done["said"].count(
            "dtype float32 with DeepSpeed and bf16 or fp16: the final folder has the bfloat16 weights"
        )
        == 1
    )
    final = load_file(tmp_path / "run/model.safetensors")
    assert {tensor.dtype for tensor in final.values()} == {torch.bfloat16}
