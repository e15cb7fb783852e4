"""Runs that cannot go on well end at once and say why; rewards that go wrong leave nothing wrong in an
advantage."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from runs import HERE, Server

from rft.data.prompt import PromptTokens
from rft.data.tokenizer import load_tokenizer
from rft.errors import TrainingError
from rft.models.loading import load_model
from rft.runs.failfast import DiskCallback, checkpoint_bytes, size
from rft.tasks.load import load_split
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.histories import HistoryArm
from rft.train.rewards import Scorer
from rft.train.targets import grpo_rows
from rft.train.trl import PolicyTrainer

SHORT = ["--max_steps", "2", "--save_strategy", "no", "--logging_steps", "1"]


@pytest.fixture(scope="module")
def server(mini_data, tiny_checkpoint, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("watch"), mini_data, tiny_checkpoint)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("raises_in_some_rows", 0, "KeyError: 'preference'"),
        ("hangs_in_some_rows", 0, "RewardTimeout: not finished after"),
        ("not_a_number", 0, "returned nan"),
        ("raises", 2, "error: reward raises failed in all 8 rows (ZeroDivisionError: division by zero)"),
        ("one_too_few", 2, "error: reward one_too_few returned 2 numbers for 3 completions"),
        ("words", 2, "error: reward words failed in all 3 rows (returned 'good')"),
        ("judge_is_down", 2, "failed in all 8 rows (ConnectionError: judge: connection refused)"),
    ],
)
def test_a_reward_that_goes_wrong(server, tmp_path, name, code, said):
    out = tmp_path / "run"
    done = server.run(
        out, *SHORT, "--rewards", f"{HERE / 'rewards_for_tests.py'}:{name}", "--reward_seconds", "2"
    )
    assert done["statuses"] == [code], done["said"]
    assert said in done["said"]
    assert "Traceback" not in done["said"]
    if code == 0:
        rows = pd.read_parquet(out / "completions/completions_00001.parquet")
        masked = rows[rows[name].isna()]
        assert 0 < len(masked) < len(rows)
        assert (masked["advantage"] == 0).all()
        assert (rows[rows[name].notna()]["advantage"] != 0).any()


def test_a_rank_that_waits_too_long_says_so_with_its_stacks(server, tmp_path):
    done = server.run(
        tmp_path / "run",
        *SHORT,
        "--max_steps",
        "9",
        "--stall_minutes",
        "0.1",
        processes=2,
        kill={"in": "training_step", "call": 2, "rank": 1, "signal": "SIGSTOP"},
    )
    assert done["statuses"][0] == 76, done["said"]
    assert "error: rank 0 of 2: no progress for" in done["said"]
    assert "gather" in done["said"]  # the stack


def test_an_output_folder_that_is_none_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    done = server.run(tmp_path / "log", *SHORT, "--output_dir", str(tmp_path / "file/run"))
    assert done["statuses"] == [2]
    assert f"error: {tmp_path / 'file/run'}" in done["said"]
    assert "Traceback" not in done["said"]


@pytest.fixture
def trainer(mini_data, tiny_checkpoint, tmp_path):
    tokenizer = load_tokenizer(str(tiny_checkpoint))
    tokenizer.padding_side = "left"
    split = load_split(mini_data, "train")
    args = HistoryGRPOConfig(
        output_dir=str(tmp_path / "run"),
        questions_per_history=2,
        num_generations=4,
        per_device_train_batch_size=8,
        max_steps=2,
        max_completion_length=6,
        bf16=False,
        use_cpu=True,
        report_to="none",
        gradient_checkpointing=False,
        remove_unused_columns=False,
    )

    def length(completion_ids, **_):
        return [float(len(ids)) + i for i, ids in enumerate(completion_ids)]

    return PolicyTrainer(
        model=load_model(str(tiny_checkpoint), dtype="float32"),
        arm=HistoryArm(split, PromptTokens(tokenizer), args),
        scorer=Scorer([length]),
        args=args,
        train_dataset=grpo_rows(split.questions),
        processing_class=tokenizer,
    )


def test_a_loss_that_is_no_number_ends_the_run_with_its_rows(trainer, monkeypatch, tmp_path):
    original = PolicyTrainer.loss
    monkeypatch.setattr(PolicyTrainer, "loss", lambda self, *args: original(self, *args) * float("nan"))
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(TrainingError, match=r"step 1: the loss is not finite \(rank 0\)"):
        trainer.train()
    rows = torch.load(tmp_path / "run/not_finite_step_1/rank_0.pt", weights_only=True)
    assert len(rows) == 1 and len(rows[0]["completion_ids"]) == 8
    # before the optimizer's step
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_a_gradient_that_is_none_ends_the_run(trainer, tmp_path):
    trainer.model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="gradient norm is not finite"):
        trainer.train()
    assert (tmp_path / "run/not_finite_step_1/rank_0.pt").exists()


def test_a_full_disk_ends_the_run_before_the_checkpoint(trainer, monkeypatch):
    needed = checkpoint_bytes(trainer)
    weights = sum(p.numel() * 4 for p in trainer.model.parameters())
    assert needed == 3 * weights
    usage = type("Usage", (), {"free": needed})
    monkeypatch.setattr("rft.runs.failfast.shutil.disk_usage", lambda folder: usage)
    trainer.add_callback(DiskCallback(trainer))
    trainer.args.save_steps = trainer.state.save_steps = 1
    with pytest.raises(TrainingError, match=r"\d (bytes|KiB|MiB) free and a checkpoint takes about \d"):
        trainer.train()
    assert not list(Path(trainer.args.output_dir).glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (655360, "640.0 KiB"),
        (2**20, "1.0 MiB"),
        (7.5 * 2**30, "7.5 GiB"),
        (2**50, "1024.0 TiB"),
    ],
)
def test_sizes_are_in_fitting_units(count, said):
    assert size(count) == said
