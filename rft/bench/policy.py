"""A model with random weights that runs as in training: adapter products in bfloat16 under autocast, and no
input cast to float32 before autocast casts it back; and its memory."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from rft.bench.setting import Setting
from rft.plan.memory_estimate import KEPT_KEYS, ModelShape, Parallelism, Workload, estimate
from rft.prefix_tree.attention import enable
from rft.train.activations import keep_attention


def policy(setting: Setting) -> Any:
    """Returns the setting's model in training mode. Its gradients exist as zeros, so no measurement includes
    their creation."""
    torch.manual_seed(0)
    longest = (
        setting.prompt_tokens
        + setting.question_tokens
        + setting.completion_tokens
        + 2 * setting.memory_tokens
    )
    config = Qwen3Config(
        **setting.shape, tie_word_embeddings=True, max_position_embeddings=max(40960, longest)
    )
    with torch.device(setting.device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, setting.dtype))
    enable(model)
    if setting.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if setting.keep_attention:
        keep_attention(model)
    if setting.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
        model.enable_input_require_grads()
        if setting.dtype == "bfloat16":
            for module in model.modules():
                if hasattr(module, "cast_input_dtype_enabled"):
                    module.cast_input_dtype_enabled = False
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight)
    return model.train()


def precision(setting: Setting) -> AbstractContextManager:
    """Returns autocast if adapters in float32 are used with weights in bfloat16, otherwise a context without
    effect."""
    if setting.lora and setting.dtype == "bfloat16":
        return torch.autocast(setting.device, torch.bfloat16)
    return nullcontext()


def held_bytes(model: torch.nn.Module) -> int:
    """Returns the bytes of weights and gradients."""
    tensors = [x for p in model.parameters() for x in (p, p.grad) if x is not None]
    return sum(x.numel() * x.element_size() for x in tensors)


def estimated_bytes(setting: Setting, model: Any, tokens: int, scored: int) -> int:
    """Returns the bytes of weights, gradients and activations by the estimate of `--dry-run`, without the
    optimizer, since benchmarks have none.

    Args:
        setting: the benchmark.
        model: the model, on any device including "meta".
        tokens: number of tokens in the tree.
        scored: number of positions with logits.
    """
    keep = setting.keep_attention and setting.prompt_tokens >= KEPT_KEYS
    work = Workload(tokens, scored, setting.checkpointing, accumulates=True, keep=keep)
    parts = estimate(
        ModelShape.of(model, half=setting.lora and setting.dtype == "bfloat16"), Parallelism(), work
    )["update"]
    return int(sum(size for name, size in parts.items() if name != "optimizer"))
