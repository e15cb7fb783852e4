"""What `test_resume.py` shows of a plain GRPO run holds with every field that changes how a run goes, and of
a cold start."""

import pytest
from runs import Server, assert_same, left, zero
from safetensors.torch import load_file

from rft.cli import main

STEPS = [
    "--max_steps",
    "6",
    "--gradient_accumulation_steps",
    "1",
    "--save_steps",
    "2",
    "--logging_steps",
    "1",
    "--learning_rate",
    "1e-3",
]
GENERATION = ["--steps_per_generation", "2"]
RESUME = ["--resume_from_checkpoint", "true"]
LORA = [
    "--use_peft",
    "true",
    "--lora_r",
    "4",
    "--lora_alpha",
    "8",
    "--lora_dropout",
    "0",
    "--lora_target_modules",
    "all-linear",
]
HELD_OUT = ["--held_out_split", "val", "--held_out_questions", "4", "--held_out_steps", "2"]
ZERO3 = zero(3)
RUNS = {
    "muon, blind questions, held-out answers, small trees": (
        "grpo",
        [*GENERATION, *HELD_OUT, "--muon", "true", "--blind_share", "0.3", "--max_tree_tokens", "1200"],
    ),
    "LoRA": ("grpo", [*GENERATION, *LORA]),
    "a cold start on few labels, with muon": (
        "sft",
        [*HELD_OUT, "--labelled_people", "10", "--muon", "true"],
    ),
    "a cold start with LoRA": ("sft", LORA),
}


@pytest.fixture(scope="module")
def server(mini_data, tiny_checkpoint, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("resume"), mini_data, tiny_checkpoint)
    yield server
    server.close()


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_bit_for_bit(name, server, tmp_path):
    recipe, words = RUNS[name]
    whole, out = tmp_path / "whole", tmp_path / "run"
    done = server.run(whole, *STEPS, *words, recipe=recipe)
    assert done["statuses"] == [0], done["said"]
    kill = {"in": "training_step", "call": 4}
    assert server.run(out, *STEPS, *words, recipe=recipe, kill=kill)["statuses"] == [-9]
    done = server.run(out, *STEPS, *words, *RESUME, recipe=recipe)
    assert done["statuses"] == [0], done["said"]
    assert "resume: " in done["said"] and "checkpoint-2" in done["said"]
    assert_same(left(out), left(whole))


def test_lora_under_zero3_is_saved_merged_and_evaluated(server, tiny_checkpoint, mini_data, tmp_path):
    out, merged = tmp_path / "run", tmp_path / "merged"
    done = server.run(out, *STEPS, *GENERATION, *LORA, processes=2, env=ZERO3)
    assert done["statuses"] == [0, 0], done["said"]
    assert done["said"].count("train: 200 questions") == 1, "once, not once a process"
    for noise in ("Setting accelerator to CPU", "missing keys", "is deprecated"):
        assert noise not in done["said"]
    adapter = load_file(out / "adapter_model.safetensors")
    assert adapter and all(tensor.numel() and tensor.isfinite().all() for tensor in adapter.values())
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name), (
        "it has learned something"
    )
    assert main(["merge", str(out), "--out", str(merged)]) == 0
    start, after = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, merged))
    assert any(not start[name].equal(after[name]) for name in start)
    answers = {}
    for name, model in (("adapter", out), ("merged", merged)):
        words = [
            "--model",
            str(model),
            "--data",
            str(mini_data),
            "--limit",
            "4",
            "--max-new-tokens",
            "8",
            "--no-controls",
        ]
        assert main(["evaluate", *words, "--out", str(tmp_path / name)]) == 0
        answers[name] = (tmp_path / name / "results.jsonl").read_text().count("completion")
    assert answers["adapter"] == answers["merged"] == 4
