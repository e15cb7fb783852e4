"""Whatever the tree cannot treat exactly is refused with its reason and the switch that turns sharing off."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tiny_tree import tiny_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from rft.errors import ModelError
from rft.prefix_tree import support
from rft.prefix_tree.attention import enable
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import plain_logps, tree_logps

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 16,
    "vocab_size": 20,
    "pad_token_id": 0,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
DYNAMIC = {
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
REFUSED = {
    "sliding_attention": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, **SLIDING)),
    "window of 4 tokens": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
    "linear_attention": lambda: Qwen3NextForCausalLM(Qwen3NextConfig(**SIZES, **EXPERTS)),
    "2 experts": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS)),
    "attention_dropout is 0.1": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, attention_dropout=0.1)),
    "lora_dropout is 0.05": lambda: get_peft_model(
        tiny_model(), LoraConfig(target_modules=["q_proj"], lora_dropout=0.05)
    ),
    "virtual tokens": lambda: get_peft_model(
        tiny_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    ),
    "final_logit_softcapping": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, layer_types=["full_attention"] * 2)
    ),
    "rope_type dynamic": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **DYNAMIC)),
    "AttentionInterface": lambda: BloomForCausalLM(
        BloomConfig(hidden_size=16, n_head=2, n_layer=1, vocab_size=20)
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refused_with_the_reason_and_the_switch(reason):
    with pytest.raises(ModelError, match=reason) as error:
        support.check_model(REFUSED[reason]())
    assert "`prefix_sharing: off`" in str(error.value) and "\n" not in str(error.value)


def test_dense_models_pass():
    for model in (tiny_model(), get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))):
        support.check_model(model)


def test_another_architecture_is_exact_too():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    support.check_model(model)
    enable(model)
    rows, prompts = [[1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 7, 8]], [3, 3, 2]
    shared, _ = tree_logps(model, Tree(rows, prompts, min_saving=1))
    alone, _ = plain_logps(model, rows, prompts)
    assert (shared - alone).abs().max() < 1e-6


def test_dropout_that_slips_past_the_gate_is_refused_in_attention():
    model = tiny_model().train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    with pytest.raises(ModelError, match="dropout"):
        tree_logps(model, Tree([[1, 2, 3]], [1]))


def test_sharing_pays_from_a_ratio_on():
    assert support.pays(1.3) and not support.pays(1.29)
