"""The dry run's estimate of memory, held against what a run takes."""

import json
import os
import subprocess
import sys

import pytest
from runs import HERE, REPOSITORY

WORDS = {
    "wide": (512, 4, ["--gradient_checkpointing", "false", "--max_completion_length", "64"]),
    "checkpointing": (512, 8, ["--gradient_checkpointing", "true", "--max_completion_length", "96"]),
    "lora": (
        768,
        6,
        [
            "--gradient_checkpointing",
            "false",
            "--use_peft",
            "true",
            "--lora_target_modules",
            "all-linear",
            "--lora_dropout",
            "0",
            "--max_completion_length",
            "64",
        ],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORDS)
def test_the_estimate_is_within_15_percent(name, mini_data, tiny_checkpoint, tmp_path):
    from transformers import AutoTokenizer, set_seed

    from rft.toy.model import make_model

    width, layers, words = WORDS[name]
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    set_seed(0)
    make_model(tokenizer, hidden_size=width, layers=layers).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    command = [
        sys.executable,
        str(HERE / "measure_peak.py"),
        "--config",
        str(REPOSITORY / "recipes/quickstart/grpo.yaml"),
        "--data",
        str(mini_data),
        "--model_name_or_path",
        str(tmp_path / "model"),
        "--output_dir",
        str(tmp_path / "run"),
        "--token_cache",
        str(tmp_path / "tokens"),
        "--max_steps",
        "2",
        "--save_strategy",
        "no",
        "--per_device_train_batch_size",
        "32",
        "--learning_rate",
        "1e-5",
        # the random model never ends: all would be masked, and nothing scored
        "--mask_truncated_completions",
        "false",
        "--blind_share",
        "0",
        "--rewards",
        f"{HERE / 'rewards_for_tests.py'}:scatter",
        *words,
    ]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1800)
    line = next((line for line in done.stdout.splitlines() if line.startswith("figures ")), None)
    assert line, done.stdout + done.stderr
    figures = json.loads(line.removeprefix("figures "))
    ratio = figures["estimated"] / figures["measured"]
    print(
        f"{name}: estimated {figures['estimated'] / 2**20:.0f} MiB, measured"
        f" {figures['measured'] / 2**20:.0f} MiB: {ratio:.2f}"
    )
    assert 0.85 <= ratio <= 1.15
