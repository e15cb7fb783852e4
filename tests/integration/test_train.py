"""Training as a user runs it: the shipped recipes on a tiny model, in real processes, with W&B offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from wandb_file import ended, read_run

REPOSITORY = Path(__file__).resolve().parents[2]
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
]


def launch(
    module: str, *words: str, processes: int = 1, cwd: Path, check: bool = True
) -> subprocess.CompletedProcess:
    # accelerate's word for several processes, here without a GPU
    several = ["--multi_gpu", "--main_process_port", "0"]
    command = [
        *LAUNCH,
        *(several if processes > 1 else ["--cpu"]),
        "--num_processes",
        str(processes),
        "-m",
        module,
        *words,
    ]
    env = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def recipe(name: str, data: Path, model: Path, out: Path, *words: str) -> list[str]:
    return [
        "--config",
        str(REPOSITORY / "recipes/quickstart" / name),
        "--data",
        str(data),
        "--model_name_or_path",
        str(model),
        "--output_dir",
        str(out),
        "--token_cache",
        str(out.parent / "tokens"),
        *words,
    ]


def logged(out: Path, key: str) -> list[float]:
    return [e[key] for e in json.loads((out / "trainer_state.json").read_text())["log_history"] if key in e]


@pytest.fixture(scope="module")
def cold_start(mini_data, tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny model after enough SFT steps to answer in the form that GRPO needs."""
    out = tmp_path_factory.mktemp("train") / "sft"
    launch(
        "rft.train.sft",
        *recipe(
            "sft.yaml",
            mini_data,
            tiny_checkpoint,
            out,
            "--max_steps",
            "240",
            "--learning_rate",
            "3e-3",
            "--save_strategy",
            "no",
            "--held_out_questions",
            "8",
            "--held_out_steps",
            "1000",
            "--hard_targets",
            "1000",
            "--blind_share",
            "0",
        ),
        cwd=out.parent,
    )
    return out


def test_the_cold_start_learns_the_form_of_an_answer(cold_start, mini_data):
    from rft.evaluate.model_answers import ModelAnswers
    from rft.evaluate.run import evaluate
    from rft.models.local import LocalModel
    from rft.tasks.load import load_split

    losses = logged(cold_start, "loss")
    assert losses[-1] < losses[0] / 3
    summary = evaluate(
        load_split(mini_data, "val"),
        cold_start.parent / "eval",
        ModelAnswers(LocalModel(cold_start, dtype="float32"), max_new_tokens=40),
    )
    assert summary.format_rate > 0.5  # 0 before training
    record = json.loads((cold_start / "provenance.json").read_text())
    assert set(record) == {"git_commit", "versions", "data_sha256"}


def test_the_cold_start_logs_its_validation_and_learns_from_few_labels(cold_start, mini_data, tmp_path):
    out = tmp_path / "more"
    done = launch(
        "rft.train.sft",
        *recipe(
            "sft.yaml",
            mini_data,
            cold_start,
            out,
            "--max_steps",
            "2",
            "--labelled_people",
            "10",
            "--hard_targets",
            "4",
            "--held_out_questions",
            "16",
            "--held_out_steps",
            "1",
            "--logging_steps",
            "1",
        ),
        cwd=tmp_path,
    )
    assert (
        "34 questions with targets, 4 of another kind than plain, such as updated, withdrawn or somebody"
        in done.stderr
    )
    assert len(logged(out, "held_out/right_and_consistent")) == len(logged(out, "held_out/withdrawn")) == 2


def test_grpo_trains_offline_with_wandb_and_the_run_reads_back(cold_start, mini_data, tmp_path):
    out = tmp_path / "grpo"
    launch(
        "rft.train.grpo",
        *recipe("grpo.yaml", mini_data, cold_start, out, "--max_steps", "2", "--report_to", "wandb"),
        cwd=tmp_path,
    )
    before, after = load_file(cold_start / "model.safetensors"), load_file(out / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)

    config, history = read_run(ended(next((tmp_path / "wandb").glob("offline-run-*/*.wandb"))))
    assert config["data_sha256"] == json.loads((out / "provenance.json").read_text())["data_sha256"]
    assert config["versions"]["trl"].startswith("1.16")
    assert config["git_commit"]
    keys = set().union(*history)
    assert {
        "train/reward",
        "train/unparsed_rate",
        "train/format_rate",
        "train/answer_letters/a",
        "train/num_tokens",
        "train/time/rollout",
        "train/right/plain",
        "train/right_and_consistent/all",
        "train/consistent",
        "train/thought_right",
        "train/thought_words",
        "train/step_time",
        "train/prefix_tree/token_ratio",
    } <= keys
    table_file = next((tmp_path / "wandb").rglob("completions*.table.json"))
    table = json.loads(table_file.read_text())
    assert {"prompt", "completion", "history_id", "answer", "advantage"} <= set(table["columns"])
    prompts = [row[table["columns"].index("prompt")] for row in table["data"]]
    # the question alone, no history
    assert all("multiple-choice" in prompt and len(prompt) < 1000 for prompt in prompts)


def test_two_processes_train_grpo(cold_start, mini_data, tmp_path):
    out = tmp_path / "two"
    done = launch(
        "rft.train.grpo",
        *recipe(
            "grpo.yaml", mini_data, cold_start, out, "--max_steps", "2", "--per_device_train_batch_size", "32"
        ),
        processes=2,
        cwd=tmp_path,
    )
    assert "2 processes" in done.stderr
    assert len(logged(out, "reward")) == 2
    assert (out / "model.safetensors").exists()


def test_lora_trains_an_adapter_that_evaluates(cold_start, mini_data, tmp_path):
    from rft.models.local import LocalModel

    out = tmp_path / "lora"
    launch(
        "rft.train.grpo",
        *recipe(
            "grpo.yaml",
            mini_data,
            cold_start,
            out,
            "--max_steps",
            "1",
            "--use_peft",
            "--lora_dropout",
            "0",
            "--lora_target_modules",
            "all-linear",
        ),
        cwd=tmp_path,
    )
    assert (out / "adapter_model.safetensors").exists()
    assert LocalModel(out, dtype="float32").generate([[5, 6, 7]], max_new_tokens=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "no/such/folder"], "error: no/such/folder: no such folder"),
        (
            ["--model_name_or_path", "no/such/model"],
            "error: no/such/model: no such folder; expected a checkpoint folder",
        ),
        (["--learing_rate", "1"], "error: --learing_rate: no such field; did you mean 'learning_rate'?"),
        (["--rewards", "reward.nothing"], 'error: reward "reward.nothing"'),
        (["--max_prompt_tokens", "10"], "error: max_prompt_tokens 10: every prompt is longer"),
        (["--use_peft", "--lora_dropout", "0.1"], "lora_dropout is 0.1, not 0"),
    ],
)
def test_a_mistake_ends_in_one_line(words, said, mini_data, tiny_checkpoint, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "rft.cli",
            "grpo",
            *recipe("grpo.yaml", mini_data, tiny_checkpoint, tmp_path / "out", *words),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
