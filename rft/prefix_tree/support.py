"""Refuses what the tree cannot treat exactly, before any work, with the reason and a remedy; nothing falls
back silently."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rft.errors import ModelError
from rft.prefix_tree.kernels import refusal

MIN_RATIO = 1.3
"""The token ratio below which sharing cannot pay."""

ONE_MASK = ", and a shared prefix would see one dropout mask for all its rows"
OFF = "set `prefix_sharing: off` to train without it"


def check_layers(model: Any) -> None:
    """Refuses a model whose attention or layers do not treat a shared prefix as they treat its copies.

    Args:
        model: a transformers model, or a PEFT model around one.

    Raises:
        ModelError: If the model is refused; names the reason and the switch.
    """
    _refuse(_reasons(model))


def check_model(model: Any, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
    """Refuses what `check_layers` refuses, and a model whose attention no kernel of the device takes.

    Args:
        model: a transformers model, or a PEFT model around one.
        device, dtype: device and dtype of its attention during training (default: the model's own).

    Raises:
        ModelError: If the model is refused; names the reason and the switch.
    """
    query = torch.empty(0, head_size(model), device=device or model.device, dtype=dtype or model.dtype)
    reason = refusal(query)
    _refuse(_reasons(model) + ([reason] if reason else []))


def _refuse(reasons: list[str]) -> None:
    if reasons:
        raise ModelError(f"prefix sharing cannot treat this model exactly: {'; '.join(reasons)}; {OFF}")


def check_training(model: Any, args: Any) -> None:
    """Runs `check_model` with the device and the dtype of these transformers `TrainingArguments`."""
    check_model(model, args.device, torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None)


def _reasons(model: Any) -> list[str]:
    config = model.config.get_text_config()
    reasons = []
    layers = getattr(config, "layer_types", None)
    if others := sorted(set(layers or ()) - {"full_attention"}):
        reasons.append(
            f"it has layers of {', '.join(others)} (layer_types), and only full attention merges path by path"
        )
    if (
        layers is None
        and getattr(config, "sliding_window", None)
        and getattr(config, "use_sliding_window", True)
    ):
        reasons.append(
            f"its attention slides over a window of {config.sliding_window} tokens (sliding_window)"
        )
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if getattr(config, key, None):
            reasons.append(
                f"it has {getattr(config, key)} experts ({key}), whose routing loss counts every copy of a"
                " token"
            )
    for key in (
        "final_logit_softcapping",
        "logit_scale",
        "logits_scaling",
        "output_multiplier",
        "lm_head_multiplier",
    ):
        if getattr(config, key, None) is not None:
            reasons.append(f"it changes its logits after the output head ({key})")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") in ("dynamic", "longrope"):
        reasons.append(f"its rotary angles depend on the length of the batch (rope_type {rope['rope_type']})")
    if not getattr(model, "_supports_attention_backend", False):
        reasons.append(
            f"{type(model).__name__} does not take its attention from transformers' AttentionInterface"
        )
    if getattr(model, "active_peft_config", None) is not None and model.active_peft_config.is_prompt_learning:
        reasons.append("its PEFT adapter puts virtual tokens in front of every row")
    return reasons + _dropout(model, config)


def head_size(model: Any) -> int:
    """The size of an attention head of the model."""
    config = model.config.get_text_config()
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _dropout(model: nn.Module, config: Any) -> list[str]:
    if getattr(config, "attention_dropout", 0.0):
        return [f"attention_dropout is {config.attention_dropout}, not 0{ONE_MASK}"]
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            kind = "lora_dropout" if "lora_dropout" in name else f"the dropout of {name}"
            return [f"{kind} is {module.p}, not 0{ONE_MASK}"]
    return []


def check_length(model: Any, longest_row: int) -> None:
    """Checks that the model has enough positions for a row.

    Raises:
        ModelError: If it has not.
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and longest_row > most:
        raise ModelError(
            f"a row of {longest_row} tokens is longer than the model's {most} positions"
            " (max_position_embeddings): shorten prompts or completions, or load the model with RoPE scaling"
        )


def check_finite(logps_BC: Tensor) -> None:
    """Checks log-probs.

    Raises:
        ModelError: If one is NaN.
    """
    bad = torch.isnan(logps_BC).any(1)
    if bad.any():
        raise ModelError(not_finite(bad.nonzero().squeeze(1).tolist()))


def not_finite(rows: list[int], where: str = "") -> str:
    """Says that the log-probs of these rows are NaN, `where`, why, and what helps."""
    return (
        f"log-probs of row {rows[0]} (and {len(rows) - 1} more) are NaN{where}: the weights or activations"
        " have overflowed; lower the learning rate, clip gradients, or train in bf16 or fp32 rather than fp16"
    )


def pays(token_ratio: float) -> bool:
    """Whether a tree saves enough of its rows' tokens to be worth its calls."""
    return token_ratio >= MIN_RATIO
