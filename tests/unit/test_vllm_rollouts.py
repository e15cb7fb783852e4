"""Rollouts of an engine behind TRL's own interface to vLLM, in both arms: prompts and limits that it gets,
weights that are synced, and the importance-sampling correction, which is TRL's. (vLLM needs a GPU.)"""

import random

import pytest
import torch
from tiny_tree import exact_norms
from transformers import AutoTokenizer, Qwen3ForCausalLM
from trl import GRPOTrainer

from rft.data.prompt import PromptTokens
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.tasks.load import load_split
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.histories import HistoryArm
from rft.train.memories import MemoryArm
from rft.train.memory_grpo_config import MemoryGRPOConfig
from rft.train.memory_rows import memory_units
from rft.train.rewards import Scorer
from rft.train.targets import grpo_rows
from rft.train.trl import PolicyTrainer

MEMORY, ANSWER = 20, 8


def spread(completion_ids, **columns):
    return [sum(ids) % 7 / 7 for ids in completion_ids]


class Engine:
    """Draws words by a seed, with log-probs that are a little off; it does not know every tenth."""

    def __init__(self, max_completion_length, **settings):
        self.max_completion_length, self.calls, self.synced, self.script = max_completion_length, [], 0, None

    def sync_weights(self):
        self.synced += 1

    def generate(self, prompts, images, num_generations, profiler=None):
        self.calls.append((len(prompts), num_generations, self.max_completion_length))
        rng = random.Random(len(self.calls))
        said = self.script or [
            (
                [rng.randrange(300, 900) for _ in range(rng.randint(2, self.max_completion_length))],
                rng.random(),
            )
            for _ in prompts
        ]
        self.script, self.last = None, said
        logps = [[[None if i % 10 == 9 else -6 - u - i / 9] for i, _ in enumerate(ids)] for ids, u in said]
        return prompts, [list(ids) for ids, _ in said], logps, None


@pytest.fixture
def make(mini_data, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", Engine)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint, padding_side="left")
    split = load_split(mini_data, "val")

    def trainer(arm, **fields):
        words = {
            "output_dir": str(tmp_path),
            "use_vllm": True,
            "vllm_mode": "colocate",
            "questions_per_history": 2,
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_completion_length": ANSWER,
            "bf16": False,
            "use_cpu": True,
            "report_to": "none",
            "gradient_checkpointing": False,
            "remove_unused_columns": False,
            "save_strategy": "no",
            "max_steps": 2,
            "logging_steps": 1,
            "disable_tqdm": True,
            **fields,
        }
        if arm == "histories":
            args = HistoryGRPOConfig(**words)
            of_arm, rows = HistoryArm(split, PromptTokens(tokenizer), args), grpo_rows(split.questions)
        else:
            args = MemoryGRPOConfig(**words)
            of_arm = MemoryArm(split, MemoryAgent(tokenizer, MemorySettings(90, MEMORY)), args)
            rows = memory_units(split.questions, 2, seed=0)
        trainer = PolicyTrainer(
            arm=of_arm,
            scorer=Scorer([spread]),
            args=args,
            model=exact_norms(Qwen3ForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float64)),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        trainer.model.train()
        return trainer

    return trainer


@pytest.mark.parametrize(
    ("mode", "low", "high"),
    [
        ("token_truncate", None, 2.0),
        ("token_mask", 0.5, 2.0),
        ("sequence_mask", None, 3.0),
        ("sequence_truncate", 0.3, 3.0),
    ],
)
def test_the_correction_is_that_of_stock_trl(make, monkeypatch, mode, low, high):
    trainer = make(
        "histories",
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )
    rows = [trainer.train_dataset[i] for i in range(2) for _ in range(2)]
    (batch,) = trainer.loop.generation(rows)
    ours, logged = batch.tensors, {name: trainer.recorded(name) for name in NAMES}
    assert trainer.vllm_generation.calls == [(4, 2, ANSWER)]

    trainer.reward_funcs = [spread]
    prompts = [turn[turn != trainer.processing_class.pad_token_id].tolist() for turn in ours["prompt_ids"]]
    trainer.vllm_generation.script = trainer.vllm_generation.last
    monkeypatch.setattr(trainer, "_tokenize_prompts", lambda _: (prompts, None, {}))
    monkeypatch.setattr(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda *_, **__: (ours["old_per_token_logps"], None, None),
    )
    trainer._metrics["train"].clear()
    theirs = GRPOTrainer._generate_and_score_completions(trainer, rows)
    assert torch.equal(ours["completion_ids"], theirs["completion_ids"])
    assert torch.equal(ours["advantages"], theirs["advantages"])
    assert torch.equal(ours["importance_sampling_ratio"], theirs["importance_sampling_ratio"])
    assert len(ours["importance_sampling_ratio"].unique()) > 1
    for name, values in logged.items():
        assert values == pytest.approx(trainer.recorded(name), rel=1e-6), name


NAMES = [
    *(f"sampling/sampling_logp_difference/{x}" for x in ("mean", "max")),
    *(f"sampling/importance_sampling_ratio/{x}" for x in ("min", "mean", "max")),
]


@pytest.mark.parametrize("arm", ["histories", "memories"])
def test_an_engine_rolls_out_both_arms(make, arm):
    trainer = make(arm)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert any(not torch.equal(before[name], p) for name, p in trainer.model.named_parameters())
    engine = trainer.vllm_generation
    assert engine.synced == 2  # once per step, however many calls
    limits = [limit for *_, limit in engine.calls]
    if arm == "memories":
        assert limits.count(ANSWER) == 2 and limits.count(MEMORY) == len(limits) - 2 >= 4
        assert engine.calls[0][1] == 2  # the memories of a history read its first chunk alike
    else:
        assert limits == [ANSWER] * 2
    assert engine.max_completion_length == ANSWER
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert set(NAMES) <= logged[0].keys() and "sampling/off_policy" not in logged[0]


def test_the_correction_enters_the_loss_of_the_memory(make):
    """Twice the ratio, twice the loss of a policy gradient whose ratios are 1."""
    trainer = make("memories", max_tree_tokens=700)
    units = [trainer.train_dataset[i] for i in range(2) for _ in range(2)]
    (batch,) = trainer.loop.generation(units)
    trainer.current_gradient_accumulation_steps = 1
    losses = []
    for factor in (1.0, 2.0):
        tensors = dict(batch.tensors)
        tensors["importance_sampling_ratio"] = factor * tensors["importance_sampling_ratio"]
        losses.append(trainer.compute_loss(trainer.model, trainer.loop.batch(tensors)).item())
    assert len(batch.parts) > 1 and losses[0] != 0
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-9)
