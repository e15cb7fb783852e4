"""What the tests of decoding share: a tiny model of every known family, prompts over one or several roots,
and the trainer's log-probs."""

import random

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from rft.prefix_tree.attention import enable
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps

FAMILIES = {
    "qwen3": (Qwen3Config, {"head_dim": 16}),
    "qwen2": (Qwen2Config, {}),
    "llama": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama3": (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "mistral": (MistralConfig, {"sliding_window": None}),
}


def model_of(family, dtype=torch.float32, **sizes):
    """A tiny model of a family, as transformers makes it; its weights are not flat."""
    make, config = FAMILIES[family]
    torch.manual_seed(0)
    config = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 50,
        "max_position_embeddings": 512,
        **config,
        **sizes,
    }
    model = AutoModelForCausalLM.from_config(make(**config), dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    enable(model)
    return model.eval()


def lora(model, **config):
    torch.manual_seed(0)
    config = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **config}
    return get_peft_model(model, LoraConfig(**config)).eval()


def prompts_of(questions=3, generations=4, history=40, roots=1):
    """Questions of unequal length after a history, over several roots."""
    rng = random.Random(1)
    prompts = []
    for _ in range(roots):
        start = [rng.randrange(50) for _ in range(history)]
        asked = [start + [rng.randrange(50) for _ in range(rng.randrange(3, 20))] for _ in range(questions)]
        prompts += [prompt for prompt in asked for _ in range(generations)]
    return prompts


def trained(model, prompts, completions, temperature=1.0):
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    with torch.no_grad():
        return tree_logps(model, Tree(rows, [len(prompt) for prompt in prompts]), temperature)[0]


def farthest(logps, trained_BC):
    return max(
        (torch.tensor(mine, dtype=theirs.dtype) - theirs[: len(mine)]).abs().max().item()
        for mine, theirs in zip(logps, trained_BC, strict=True)
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)
