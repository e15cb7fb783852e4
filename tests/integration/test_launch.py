"""`rft grpo --launch`: two real processes behind accelerate, which leave with a checkpoint when the command
is told to."""

import json
import os
import signal
import subprocess
import sys
import time

from runs import HERE, REPOSITORY


def start(out, data, model, *words):
    command = [
        sys.executable,
        "-m",
        "rft.cli",
        "grpo",
        "--launch",
        "zero2",
        "--num_processes",
        "2",
        "--config",
        str(REPOSITORY / "recipes/quickstart/grpo.yaml"),
        "--data",
        str(data),
        "--model_name_or_path",
        str(model),
        "--output_dir",
        str(out),
        "--token_cache",
        str(out.parent / "tokens"),
        "--questions_per_history",
        "2",
        "--num_generations",
        "4",
        "--per_device_train_batch_size",
        "8",
        "--max_completion_length",
        "6",
        "--rewards",
        f"{HERE / 'rewards_for_tests.py'}:scatter",
        *words,
    ]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, cwd=out.parent, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_launched_run_leaves_with_a_checkpoint_and_goes_on(mini_data, tiny_checkpoint, tmp_path):
    out = tmp_path / "run"
    process = start(out, mini_data, tiny_checkpoint, "--max_steps", "500")
    limit = time.monotonic() + 540
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < limit, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 75, said
    assert said.startswith("accelerate launch --config_file ")
    left = json.loads((out / "interrupted.json").read_text())
    step = int(left["checkpoint"].removeprefix("checkpoint-"))
    process = start(
        out,
        mini_data,
        tiny_checkpoint,
        "--max_steps",
        str(step + 1),
        "--allow_change",
        "max_steps",
        "--resume_from_checkpoint",
        "true",
    )
    said = process.communicate(timeout=540)[0]
    assert process.returncode == 0, said
    assert "changed, as allowed: max_steps: 500 ->" in said
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()][
        :step
    ] == list(range(1, step + 1))


def test_a_mistake_is_one_line_under_a_launcher_too(tmp_path):
    process = start(tmp_path / "run", tmp_path / "nowhere", tmp_path / "no_model")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 2
    assert said.count("error: ") == 1 and f"error: {tmp_path / 'no_model'}: no such folder" in said
    assert "Traceback" not in said
