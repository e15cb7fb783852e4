"""What training and sampling do on a GPU, against float32 and float64: kernels in every shape, gradients, LoRA under autocast,
the sampler. The same tests run on a CPU, whose kernels round as a GPU's do; `pytest -m gpu` runs them on a card.
"""

import pytest
import torch
from tiny_tree import random_rows, tiny_model

from rft.bench.batch import questions
from rft.bench.exactness import exactness
from rft.bench.kernels import Sizes, kernels
from rft.bench.setting import Setting
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import plain_logps, tree_logps
from rft.prefix_tree.sample import sample

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
AS_PLAIN = 1.25  # an error this many times that of plain rows in the same dtype is noise: seeds give 0.89 to 1.06


@pytest.mark.parametrize("device", DEVICES)
def test_every_shape_of_attention(device):
    """Spans of one token, few queries over much, strides, head sizes, one query a row over a long cache with grouped heads."""
    sizes = (32768, 2048) if device == "cuda" else (512, 64)
    found = kernels(device, Sizes(*sizes, heads=8, keys=2, head_size=128, head_sizes=(64, 96, 128, 256), rows=32))
    assert [case for case in found["cases"] if not case.get("right")] == []


@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"lora": True, "checkpointing": True}], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_log_probs_and_gradients_err_no_more_than_rows_do(device, options):
    setting = Setting("toy", device, "bfloat16", 300, 2, 40, 2, 32, **options)
    found = exactness(setting, questions)
    assert 0 < found["tree_error_to_float32"] < AS_PLAIN * found["plain_error_to_float32"]
    assert 0 < found["tree_grad_error_to_float32"] < AS_PLAIN * found["plain_grad_error_to_float32"]


@pytest.mark.parametrize("device", DEVICES)
def test_float32_is_exact(device):
    found = exactness(Setting("toy", device, "float32", 300, 2, 40, 2, 32), questions)
    assert found["short_max_logprob_error"] < 1e-5 and found["max_grad_rel_error"] < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("device", DEVICES)
def test_what_is_sampled_has_the_log_probs_that_are_trained(device, dtype):
    rows, prompts = random_rows(3, histories=3)
    asked = [row[:n] for row, n in zip(rows, prompts, strict=True)]
    model = tiny_model(torch.float32, head_dim=16).to(device).to(dtype)
    torch.manual_seed(0)
    completions, logps = sample(model, asked, max_new_tokens=40, eos_ids=[7])
    whole = [prompt + completion for prompt, completion in zip(asked, completions, strict=True)]
    lengths = [len(prompt) for prompt in asked]
    trained_BC, _ = tree_logps(model, Tree(whole, lengths, min_saving=1, device=device))
    alone_BC, _ = plain_logps(model, whole, lengths)
    exact_BC, _ = plain_logps(model.float(), whole, lengths)
    sampled_BC = torch.zeros_like(exact_BC)
    for row, values in enumerate(logps):
        sampled_BC[row, : len(values)] = torch.tensor(values, device=device)
    if dtype == torch.float32:
        assert (sampled_BC - trained_BC).abs().max() < 1e-4
    error = (alone_BC.float() - exact_BC).abs().mean() + 1e-6
    assert (sampled_BC - exact_BC).abs().mean() < AS_PLAIN * error
    assert (trained_BC.float() - exact_BC).abs().mean() < AS_PLAIN * error
