"""One contract for rewards in both arms: the example of docs/rewards.md runs in both, with the columns that
the page lists; what breaks the contract is said in one line."""

import re

import numpy as np
import pytest
import torch
from tiny_tree import tiny_model
from transformers import AutoTokenizer

import reward
from rft.data.prompt import PromptTokens
from rft.errors import RecipeError, TrainingError
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.metrics.table import find
from rft.report.training import write_report
from rft.runs.tracking import MetricsFile
from rft.tasks.load import load_split
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.histories import HistoryArm
from rft.train.memories import MemoryArm
from rft.train.memory_grpo_config import MemoryGRPOConfig
from rft.train.memory_rows import memory_units
from rft.train.rewards import Scorer, question_columns
from rft.train.targets import grpo_rows, target
from rft.train.trl import PolicyTrainer

ARMS = ("histories", "memories")
COMMON = {
    "questions_per_history": 2,
    "num_generations": 2,
    "max_completion_length": 6,
    "max_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "gradient_checkpointing": False,
    "remove_unused_columns": False,
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
}


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs/rewards.md").read_text()


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return AutoTokenizer.from_pretrained(tiny_checkpoint, padding_side="left")


@pytest.fixture
def make(tokenizer, mini_data, tmp_path):
    """A trainer of an arm with these rewards."""
    split = load_split(mini_data, "val")

    def trainer(arm, rewards, weights=None, **fields):
        words = {"output_dir": str(tmp_path), "per_device_train_batch_size": 4, **COMMON, **fields}
        if arm == "histories":
            args = HistoryGRPOConfig(**words)
            of_arm, rows = HistoryArm(split, PromptTokens(tokenizer), args), grpo_rows(split.questions)
        else:
            args = MemoryGRPOConfig(**words)
            of_arm = MemoryArm(split, MemoryAgent(tokenizer, MemorySettings(90, 20)), args)
            rows = memory_units(split.questions, 2, seed=0)
        return PolicyTrainer(
            arm=of_arm,
            scorer=Scorer(rewards, weights),
            args=args,
            model=tiny_model(
                vocab_size=len(tokenizer), max_position_embeddings=2048, eos_token_id=tokenizer.eos_token_id
            ),
            train_dataset=rows,
            processing_class=tokenizer,
        )

    return trainer


@pytest.mark.parametrize("arm", ARMS)
def test_the_example_of_the_page_runs_in_both_arms(arm, make, page, tmp_path):
    (tmp_path / "helpful.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    helpful = reward.load(f"{tmp_path / 'helpful.py'}:helpful")
    trainer = make(arm, [helpful, reward.personamem], [0.2, 1.0])
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert {"rewards/helpful/mean", "rewards/personamem/mean", "reward_std", "time/reward"} <= logged[
        0
    ].keys()
    logged_names = {name for entry in trainer.state.log_history for name in entry} - {"step", "epoch"}
    assert [name for name in logged_names if find(name) is None] == []


@pytest.mark.parametrize("arm", ARMS)
def test_the_metric_of_the_page_is_logged_and_rewards_nothing(arm, make, page, tmp_path):
    (tmp_path / "watch.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[1])
    watch = reward.load(f"{tmp_path / 'watch.py'}:shown_option")
    trainer = make(arm, [watch, lambda completions: [1.0] * len(completions)])
    trainer.add_callback(MetricsFile())
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert 0 <= logged["shown_option"] <= 1 and find("shown_option") is None
    assert logged["reward"] == 1 and "rewards/shown_option/mean" not in logged
    write_report(tmp_path, tmp_path / "page.html")
    assert "<h3>shown_option</h3>" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("arm", ARMS)
def test_every_column_of_the_page_is_there_and_no_other(arm, make, page):
    listed = {
        name
        for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert listed | {"trainer_state", "log_metric", "log_extra"} == set(reward.COLUMNS)
    seen = {}

    def look(**columns):
        seen.update(columns)
        columns["log_metric"]("seen", 2.0)
        columns["log_extra"]("length", [len(text) for text in columns["completions"]])
        return np.arange(len(columns["completions"]), dtype=np.float32)

    trainer = make(arm, [look])
    trainer.train()
    assert set(seen) == set(reward.COLUMNS)
    answers = 4 if arm == "histories" else 8
    assert all(len(seen[name]) == answers for name in listed)
    assert len(set(seen["history_id"])) >= 1 and all(seen["labels"]) and isinstance(seen["finished"][0], bool)
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert logged[0]["seen"] == 2.0


@pytest.mark.parametrize("arm", ARMS)
def test_several_rewards_some_of_which_cannot_score(arm, make):
    """Sync, async, without **columns, tensors; None counts for nothing."""

    def sync(completions, kind):
        return torch.ones(len(completions))

    async def other(completion_ids, query, **columns):
        return [None if i % 2 else 3.0 for i, _ in enumerate(completion_ids)]

    def never(completions, **columns):
        return [None] * len(completions)

    trainer = make(arm, [sync, other, never], [1.0, 0.5, 7.0])
    trainer.model.train()
    units = [trainer.train_dataset[i] for i in range(2) for _ in range(2)]
    turns = [turn for rollout in trainer.loop.rollouts(units) for turn in rollout.answers]
    assert {turn.reward for turn in turns} == {1.0, 2.5}
    assert trainer.loop.scorer.names == ["sync", "other", "never"]


def test_a_column_that_does_not_exist_is_named_with_those_that_do():
    def wants(completions, memory_text, **columns):
        return [0.0] * len(completions)

    with pytest.raises(
        RecipeError, match="reward wants: there is no column memory_text; a reward can take prompts, "
    ):
        Scorer([wants])
    with pytest.raises(RecipeError, match="no column query; a reward can take memories, chunks, "):
        Scorer([], memory_rewards=[lambda query: []])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda completions: ["good"] * len(completions), r"failed in all 3 rows \(returned 'good'\)"),
        (lambda completions: [0.5], "returned 1 numbers for 3 completions"),
        (lambda completions: 0.5, "returned 0.5 for 3 completions"),
        (lambda completions: np.ones((3, 1)), r"returned an array of shape \(3, 1\) for 3 completions"),
    ],
)
def test_what_is_no_score_is_said_before_a_model_is_loaded(given, said, mini_data, tokenizer):
    question = load_split(mini_data, "val").questions[0]
    with pytest.raises(RecipeError, match=said):
        Scorer([given]).check(question, target(question), "", tokenizer)


def test_an_example_is_one_row_of_the_columns(mini_data):
    """As a user tries a reward by hand."""
    question = load_split(mini_data, "val").questions[0]
    examples = [
        reward.Example(**question_columns(question), completion=target(question)),
        reward.Example(completion="x", answer="a"),
    ]
    columns = reward.columns(examples)
    assert reward.personamem(**columns) == [1.0, 0.0]
    assert set(columns) < set(reward.COLUMNS) and columns["kind"][0] == question.kind


def test_an_error_in_every_row_ends_the_run(make):
    async def down(completions, **columns):
        raise ConnectionError("refused")

    with pytest.raises(TrainingError, match="reward down failed in all 8 rows .ConnectionError: refused"):
        make("memories", [down]).train()
