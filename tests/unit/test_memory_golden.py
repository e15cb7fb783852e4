"""Losses and gradients of the memory's training as they were on 2026-11-27 at 8cf1065, before both arms had
one loop: four steps in float64 over completions that follow from their prompts."""

import zlib
from random import Random

import pytest
import torch
from tiny_tree import tiny_model
from transformers import AutoTokenizer, TrainerCallback

import reward
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.tasks.load import load_split
from rft.tasks.memory_targets import load_memory_targets
from rft.train.memories import MemoryArm
from rft.train.memory_grpo_config import MemoryGRPOConfig
from rft.train.memory_rows import memory_units
from rft.train.rewards import Scorer
from rft.train.trl import PolicyTrainer

GOLDEN = {  # losses, norms of gradients, norm of the weights
    "dapo": [
        -0.02918456867337227,
        0.10671886056661606,
        0.0925610363483429,
        -0.14524923264980316,
        1.1223125658745905,
        1.1356700597660772,
        1.1538988250548674,
        1.2698316120860735,
        90.91749367933355,
    ],
    "cispo": [
        -0.022125819697976112,
        -0.003522849641740322,
        -0.015962034463882446,
        -0.027298010885715485,
        0.038572505977386276,
        0.02799881976944086,
        0.04243516538479945,
        0.02630221727918069,
        90.91742782240804,
    ],
    "all": [
        0.11966128647327423,
        0.10412761569023132,
        0.1241040900349617,
        0.10816182941198349,
        1.2682899178734994,
        1.1867934017440256,
        1.2757196633680499,
        1.2022521413019858,
        90.91768164329856,
    ],
}


def words(prompt, number, longest, end):
    """The n-th completion of a prompt."""
    rng = Random(f"{zlib.crc32(str(list(prompt)).encode())}-{number}")
    ids = [rng.randrange(300, 900) for _ in range(rng.randint(2, longest - 1))]
    return [*ids, end] if rng.random() < 0.7 else ids


def scatter(completion_ids, **columns):
    return [zlib.crc32(str(list(ids)).encode()) % 1000 / 1000 for ids in completion_ids]


FIELDS = {
    "dapo": {},
    "cispo": {"loss_type": "cispo", "answers_per_memory": 2, "scale_rewards": "none"},
    "all": {
        "beta": 0.1,
        "num_iterations": 2,
        "steps_per_generation": 2,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 2,
        "max_tree_tokens": 700,
        "mask_truncated_completions": True,
    },
}
COMMON = {
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "questions_per_history": 2,
    "max_completion_length": 8,
    "max_steps": 4,
    "learning_rate": 1e-2,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "max_grad_norm": 0.0,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "remove_unused_columns": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_steps": 1,
}


class Norms(TrainerCallback):
    """The norm of every optimizer step's gradient, in float64."""

    def __init__(self):
        self.found = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        self.found.append(torch.cat(gradients).norm().item())


def run(trainer, norms):
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return [*losses, *norms.found, weights.norm().item()]


def complete(self, prompts, longest):
    """Completions that follow from their prompts."""
    seen = {}
    drawn = []
    for prompt in map(tuple, prompts):
        seen[prompt] = seen.get(prompt, 0) + 1
        ids = words(prompt, seen[prompt], longest, self.ends[0])
        drawn.append((ids, [-5.0] * len(ids)))
    return drawn


@pytest.fixture
def make(mini_data, tiny_checkpoint, tmp_path, monkeypatch):
    """A trainer of a tiny float64 model."""
    monkeypatch.setattr(PolicyTrainer, "complete", complete)

    def trainer(*callbacks, **fields) -> PolicyTrainer:
        tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint, padding_side="left")
        split = load_split(mini_data, "val")
        args = MemoryGRPOConfig(output_dir=str(tmp_path), **COMMON | fields)
        rewards = [reward.load(f"reward.memory.{x}") for x in ("within_budget", "forgotten_absent")]
        model = tiny_model(
            torch.float64,
            vocab_size=len(tokenizer),
            max_position_embeddings=2048,
            eos_token_id=tokenizer.eos_token_id,
        )
        if args.beta:  # a reference is loaded from a folder
            model.save_pretrained(tmp_path / "reference")
            model.config._name_or_path = str(tmp_path / "reference")
        return PolicyTrainer(
            arm=MemoryArm(split, MemoryAgent(tokenizer, MemorySettings(90, 20)), args),
            scorer=Scorer([scatter], None, 60.0, rewards, None, load_memory_targets(split)),
            args=args,
            model=model,
            train_dataset=memory_units(split.questions, 2, seed=0),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )

    return trainer


@pytest.mark.parametrize("name", FIELDS)
def test_the_memory_trains_as_it_did(make, name):
    norms = Norms()
    assert run(make(norms, **FIELDS[name]), norms) == pytest.approx(GOLDEN[name], rel=1e-6, abs=1e-9)


@pytest.fixture
def float64():
    """Weights, advantages and divisors of a batch are rounded to torch's default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def loss_of(trainer, rollouts):
    """The trainer's loss of a generation, and its loss by definition: the clipped objective, averaged over
    the tokens of each turn, then over turns, all alike or each with its share of its trajectory."""
    (batch,) = trainer.loop.micro_batches(rollouts)
    generator = torch.Generator().manual_seed(0)
    old_BC = batch.tensors["sampling_per_token_logps"]
    old_BC = trainer.logps(batch) + 0.3 * torch.randn(old_BC.shape, generator=generator, dtype=torch.float64)
    batch.add("old_per_token_logps", old_BC)
    trainer.current_gradient_accumulation_steps = 1
    found = trainer.compute_loss(trainer.model, batch).item()

    total = weights = 0.0
    kept = iter(old_BC)
    for rollout in rollouts:
        for turn in rollout.turns:
            share = 1 / len(rollout.turns) if trainer.args.turn_weighting == "trajectory" else 1.0
            weights += share
            if not turn.advantage:  # left out of the batch
                continue
            p, c = len(turn.prompt), len(turn.completion)
            logits = trainer.model(torch.tensor([[*turn.prompt, *turn.completion]])).logits[0, p - 1 : -1]
            logps = logits.log_softmax(-1)[range(c), turn.completion]
            ratio = (logps - next(kept)[:c]).exp()
            bounded = ratio.clamp(1 - trainer.args.epsilon, 1 + trainer.args.epsilon)
            total -= share * torch.min(ratio * turn.advantage, bounded * turn.advantage).mean().item()
    return found, total / weights


@pytest.mark.parametrize("weighting", ["turn", "trajectory"])
def test_the_loss_of_turns_and_trajectories_is_its_definition(make, float64, weighting):
    trainer = make(turn_weighting=weighting)
    unit = trainer.train_dataset[0], trainer.train_dataset[7]
    rollouts = trainer.loop.rollouts([unit[0], unit[0], unit[1], unit[1]])
    assert len({len(turn.completion) for r in rollouts for turn in r.turns}) > 3
    found, expected = loss_of(trainer, rollouts)
    assert found == pytest.approx(expected, rel=1e-9, abs=0)
    assert abs(expected) > 1e-3
