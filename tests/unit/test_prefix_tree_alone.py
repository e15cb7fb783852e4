"""The prefix tree as a thing of its own: it needs torch and transformers alone, and fits TRL's trainers."""

import inspect
import subprocess
import sys

import pytest
import torch
from tiny_tree import VOCAB, random_rows, reference, tiny_model
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl import GRPOTrainer

import rft
from rft.errors import ModelError

ALONE = """
import sys
from pathlib import Path

ours = {path.stem for path in Path("rft").iterdir()} - {"__init__", "version", "errors", "prefix_tree"}
others = ["reward", "trl", "datasets", "peft", "accelerate", "pydantic", "deepspeed", "rich", "openai"]
for name in [*(f"rft.{name}" for name in ours), *others]:
    sys.modules[name] = None  # importing it fails

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import rft

torch.manual_seed(0)
sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
model = Qwen3ForCausalLM(Qwen3Config(**sizes, intermediate_size=16, vocab_size=20))
rft.enable_prefix_tree(model)
rows = [[1, 2, 3, 4, 5, token] for token in (6, 7, 8)]
logps, entropies = rft.tree_logps(model, rft.Tree(rows, [5] * 3), compute_entropy=True)
logps.sum().backward()
ids = torch.tensor(rows)
padded, _, _ = rft.trl_logps()(model, ids, torch.ones_like(ids), 1)
assert torch.equal(padded, logps) and model.lm_head.weight.grad.any()
completions, _ = rft.sample(model, [rows[0][:5]] * 2, max_new_tokens=3, eos_ids=[0])
plain = model(ids).logits.log_softmax(-1)[:, 4].gather(1, ids[:, 5:])
assert (plain - logps).abs().max() < 1e-5 and len(completions) == 2
print("alone", len(ours) > 20)
"""


def test_it_runs_with_torch_and_transformers_alone(repository):
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=repository, capture_output=True, text=True)
    assert done.stdout == "alone True\n", done.stderr


def test_logps_of_padded_rows_are_those_of_the_rows():
    rows, prompts = random_rows(3)
    model = tiny_model()
    P, C = max(prompts), max(len(row) - prompt for row, prompt in zip(rows, prompts, strict=True))
    ids, mask = (
        torch.zeros(len(rows), P + C, dtype=torch.long),
        torch.zeros(len(rows), P + C, dtype=torch.long),
    )
    for b, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids[b, P - prompt : P - prompt + len(row)] = torch.tensor(row)
        mask[b, P - prompt : P - prompt + len(row)] = 1
    ours = rft.trl_logps(0.7)(model, ids, mask, C, compute_entropy=True, pixel_values=None)
    for table, expected in zip(ours, reference(model, rows, prompts, 0.7), strict=False):
        assert (table - expected).abs().max() < 1e-9
    assert ours[2] is None


def test_it_takes_what_trl_passes():
    theirs = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    ours = [
        name
        for name, p in inspect.signature(rft.trl_logps()).parameters.items()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert ours == [*theirs][1 : len(ours) + 1]
    with pytest.raises(ModelError, match="pixel_values: the prefix tree takes text models"):
        rft.trl_logps()(tiny_model(), torch.ones(1, 2), torch.ones(1, 2), 1, pixel_values=torch.ones(1))
    with pytest.raises(ModelError, match="compute_aux_loss: "):
        rft.trl_logps()(tiny_model(), torch.ones(1, 2), torch.ones(1, 2), 1, compute_aux_loss=True)


def test_a_model_without_the_trees_attention_is_refused():
    """Another attention would ignore the tree, and the log-probs would be wrong."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8, intermediate_size=16, vocab_size=VOCAB))
    for use in (
        lambda: rft.tree_logps(model, rft.Tree([[1, 2, 3]], [1])),
        lambda: rft.sample(model, [[1, 2]], max_new_tokens=1, eos_ids=[0]),
    ):
        with pytest.raises(ModelError, match="call rft.enable_prefix_tree"):
            use()
    rft.enable_prefix_tree(model)
    rft.tree_logps(model, rft.Tree([[1, 2, 3]], [1]))


def test_a_refused_model_is_refused_when_it_is_enabled():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen3Config(**sizes, head_dim=8, intermediate_size=16, vocab_size=VOCAB, attention_dropout=0.1)
    with pytest.raises(ModelError, match="attention_dropout is 0.1"):
        rft.enable_prefix_tree(Qwen3ForCausalLM(config))
