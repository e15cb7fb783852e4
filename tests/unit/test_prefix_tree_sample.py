"""Sampling over a shared prefix draws from the model's own distribution, and reports the log-probs that the
trainer computes."""

import random

import pytest
import torch
from tiny_tree import VOCAB, random_rows, tiny_model, tokens

from rft.errors import ModelError
from rft.prefix_tree import decode
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps
from rft.prefix_tree.sample import sample

EOS = [7, 8]


def some_prompts(seed, generations=3):
    rows, prompts = random_rows(seed)
    return [row[:p] for row, p in zip(rows, prompts, strict=True) for _ in range(generations)]


def generate(model, prompt, n, eos=EOS):
    """transformers' own greedy completion of one prompt."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("long", [1024, 4])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_is_generate(seed, long, monkeypatch):
    monkeypatch.setattr(decode, "LONG", long)  # 4: nodes attended where they lie, as histories are
    model, prompts = tiny_model(seed=seed), some_prompts(seed)
    completions, _ = sample(model, prompts, max_new_tokens=40, eos_ids=EOS, temperature=0)
    assert completions == [generate(model, prompt, 40) for prompt in prompts]
    lengths = {len(completion) for completion in completions}
    assert len(lengths) > 1, "rows that end at different steps"


@pytest.mark.parametrize("temperature, extra", [(0.7, {}), (1.3, {"top_p": 0.8, "top_k": 20, "min_p": 0.02})])
def test_sampling_logps_are_the_trainers(temperature, extra):
    model, prompts = tiny_model(), some_prompts(1)
    generator = torch.Generator().manual_seed(0)
    completions, logps = sample(
        model, prompts, max_new_tokens=20, eos_ids=EOS, temperature=temperature, generator=generator, **extra
    )
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    trained, _ = tree_logps(model, Tree(rows, [len(prompt) for prompt in prompts]), temperature)
    for mine, theirs in zip(logps, trained, strict=True):
        assert (torch.tensor(mine, dtype=theirs.dtype) - theirs[: len(mine)]).abs().max() < 1e-9


def test_completions_end_with_the_first_end_token():
    completions, logps = sample(tiny_model(), some_prompts(2), max_new_tokens=30, eos_ids=EOS)
    assert {len(c) for c in completions} != {30}
    for completion, row in zip(completions, logps, strict=True):
        assert len(row) == len(completion) and 1 <= len(completion) <= 30
        assert not set(completion[:-1]) & set(EOS) and (len(completion) == 30 or completion[-1] in EOS)


def test_draws_follow_the_models_distribution():
    model, prompt = tiny_model(), [1, 2, 3, 4]
    with torch.no_grad():
        probs = (model(torch.tensor([prompt])).logits[0, -1] / 1.5).softmax(-1)
    drawn, _ = sample(
        model,
        [prompt] * 4000,
        max_new_tokens=1,
        eos_ids=[],
        temperature=1.5,
        generator=torch.Generator().manual_seed(0),
    )
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=VOCAB)
    assert ((counts / 4000 - probs).abs() < 4 * (probs * (1 - probs) / 4000).sqrt() + 1e-3).all()


@pytest.mark.parametrize("extra", [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.3}])
def test_unlikely_tokens_are_not_drawn(extra):
    model, prompt = tiny_model(), [1, 2, 3, 4]
    with torch.no_grad():
        probs = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    ranked = probs.argsort(descending=True)
    allowed = {
        "top_k": set(ranked[:3].tolist()),
        "top_p": set(ranked[: int((probs[ranked].cumsum(0) < 0.5).sum()) + 1].tolist()),
        "min_p": set((probs >= 0.3 * probs.max()).nonzero().flatten().tolist()),
    }[next(iter(extra))]
    drawn, _ = sample(
        model,
        [prompt] * 500,
        max_new_tokens=1,
        eos_ids=[],
        generator=torch.Generator().manual_seed(0),
        **extra,
    )
    assert 1 < len(allowed) < VOCAB and {token for (token,) in drawn} == allowed


def test_one_seed_gives_one_result():
    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample(tiny_model(), some_prompts(3), max_new_tokens=20, eos_ids=EOS, generator=generator)

    assert run(0) == run(0) != run(1)


def test_a_prefix_is_forwarded_once():
    model = tiny_model()
    prompts = [[1] * 50 + [2 + q] * 5 for q in range(2) for _ in range(4)]
    seen = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    sample(model, prompts, max_new_tokens=3, eos_ids=[])
    assert seen == [60, 8, 8]


def test_finished_rows_leave_the_batch():
    model, seen = tiny_model(), []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    completions, _ = sample(model, [[1, 2, 3]] * 40, max_new_tokens=25, eos_ids=list(range(10)))
    lengths = [len(c) for c in completions]
    assert seen[1:] == [sum(n > step for n in lengths) for step in range(1, max(lengths))]


def test_defined_results_at_the_edges():
    model = tiny_model()
    assert sample(model, [], max_new_tokens=5, eos_ids=EOS) == ([], [])
    assert sample(model, [[1, 2]], max_new_tokens=0, eos_ids=EOS) == ([[]], [[]])
    with pytest.raises(ModelError, match="row of 520 tokens .* 512 positions"):
        sample(model, [[1] * 20], max_new_tokens=500, eos_ids=EOS)


def test_numbers_that_are_none_are_refused():
    model = tiny_model()
    model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(ModelError, match=r"row 0 \(and 1 more\) are NaN"):
        sample(model, [[1, 2]] * 2, max_new_tokens=2, eos_ids=EOS)


def test_training_state_is_left_alone():
    model = tiny_model().train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    prompt = tokens(random.Random(0), 12)
    completions, _ = sample(model, [prompt], max_new_tokens=10, eos_ids=EOS, temperature=0)
    assert model.training and torch.is_grad_enabled()
    assert completions == [generate(model.eval(), prompt, 10)]
