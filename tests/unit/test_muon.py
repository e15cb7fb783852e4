"""Muon and AdamW as one optimizer: each parameter moves as by torch's own, and a state put back goes on bit
for bit."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from rft.train.muon import MuonAdamW

LR, DECAY, BETAS, EPS = 1e-2, 0.1, (0.9, 0.98), 1e-8


@pytest.fixture
def model(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)


def step(model, optimizer, seed):
    ids_BT = torch.randint(5, 100, (2, 12), generator=torch.Generator().manual_seed(seed))
    model(input_ids=ids_BT, labels=ids_BT).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def of(model):
    return MuonAdamW(model, LR, DECAY, BETAS, EPS)


def is_matrix(name, parameter):
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name


def test_every_parameter_moves_as_by_torchs_own_optimizers(model):
    other = copy.deepcopy(model)
    named = list(other.named_parameters())
    muon = torch.optim.Muon(
        [p for n, p in named if is_matrix(n, p)], lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if p.ndim != 2], "weight_decay": 0.0},
            {"params": [p for n, p in named if p.ndim == 2 and not is_matrix(n, p)], "weight_decay": DECAY},
        ],
        lr=LR,
        betas=BETAS,
        eps=EPS,
    )
    start = copy.deepcopy(model)
    ours = of(model)
    for seed in range(3):
        step(model, ours, seed)
        ids_BT = torch.randint(5, 100, (2, 12), generator=torch.Generator().manual_seed(seed))
        other(input_ids=ids_BT, labels=ids_BT).loss.backward()
        for optimizer in (muon, adamw):
            optimizer.step()
            optimizer.zero_grad()
    for (name, ours_p), theirs, before in zip(
        model.named_parameters(), other.parameters(), start.parameters(), strict=True
    ):
        assert torch.equal(ours_p, theirs), name
        assert not torch.equal(ours_p, before), name


def test_a_schedule_and_a_state_put_back_reach_both_parts(model):
    whole = of(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(whole, lambda done: 1.0 / (1 + done))
    step(model, whole, 0)
    schedule.step()
    assert [group["lr"] for part in whole.parts for group in part.param_groups] == [LR / 2] * len(
        whole.param_groups
    )

    resumed_model, saved = copy.deepcopy(model), copy.deepcopy(whole.state_dict())
    resumed = of(resumed_model)
    resumed.load_state_dict(saved)
    for seed in (1, 2):
        step(model, whole, seed)
        step(resumed_model, resumed, seed)
    for (name, one), other in zip(model.named_parameters(), resumed_model.parameters(), strict=True):
        assert torch.equal(one, other), name
