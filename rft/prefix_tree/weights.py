"""The weights of known decoder layers, arranged for decoding: one matrix for queries, keys and values, one
for the gate and the up projection, LoRA merged, all in the dtype of the computation.

What is arranged is a copy, held for one rollout. The model is only read: after a rollout, and after one that
failed, every weight is bit for bit what it was. A matrix that needs no change (output and down projections
without an adapter) is the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

KNOWN = ("llama", "mistral", "qwen2", "qwen3")
"""transformers' model types whose layers are two residual branches: attention with rotary positions and at
most a norm per head of queries and keys, and a gated MLP."""


Linear = tuple[Tensor, Tensor | None]
"""A projection's matrix and its bias."""


@dataclass(frozen=True)
class Layer:
    """One layer's weights, matrices (in, out). `head_norms` are the weights (H + K, D) of the norms of
    queries and keys."""

    norm: Tensor
    qkv: Linear
    head_norms: Tensor | None
    out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


def refusal(model: Any) -> str | None:
    """Says why this model's layers cannot be arranged exactly; None if they can.

    Args:
        model: a transformers model, or a PEFT model around one.
    """
    base = base_model(model)
    config, decoder = base.config.get_text_config(), base.base_model
    home = f"transformers.models.{config.model_type}.modeling_{config.model_type}"
    if config.model_type not in KNOWN or type(base).__module__ != home:
        return f"{type(base).__name__} is not one of {', '.join(KNOWN)}"
    for module in [model, base, decoder, *decoder.layers.modules()]:
        if why := _changed(module):
            return f"{type(module).__name__} {why}"
    for layer in decoder.layers:
        for name, module in [*layer.named_modules()][1:]:
            if name.endswith("norm") and type(module).__module__ != home:
                return f"its {name} is a {type(module).__name__}"
        for name, linear in _linears(layer).items():
            if why := _unknown(linear):
                return f"its {name} {why}"
    if config.hidden_act not in ("silu", "swish"):
        return f"its activation is {config.hidden_act}, not silu"
    if 2 * len(decoder.rotary_emb.inv_freq) != decoder.layers[0].self_attn.head_dim:
        return "it rotates a part of each head (partial_rotary_factor)"
    return None


def base_model(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def arrange(model: Any, dtype: torch.dtype) -> list[Layer]:
    """The weights of every layer, matrices in `dtype`; `refusal` must be None."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, enabled=False):  # an adapter is merged in no less than float32
        return [_arrange(layer, dtype) for layer in base_model(model).base_model.layers]


def _arrange(layer: Any, dtype: torch.dtype) -> Layer:
    attention = layer.self_attn
    q, k, v, out, gate, up, down = (_matrix(linear, dtype) for linear in _linears(layer).values())
    head_norms = None
    if hasattr(attention, "q_norm"):
        heads = [(attention.q_norm, len(q[0])), (attention.k_norm, len(k[0]))]
        head_norms = torch.cat(
            [norm.weight.to(dtype).expand(size // attention.head_dim, -1) for norm, size in heads]
        )
    return Layer(
        norm=layer.input_layernorm.weight,
        qkv=_joined([q, k, v]),
        head_norms=head_norms,
        out=(out[0].t(), out[1]),
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=_joined([gate, up]),
        down=(down[0].t(), down[1]),
    )


def _linears(layer: Any) -> dict[str, Any]:
    attention, mlp = layer.self_attn, layer.mlp
    of_attention = {name: getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    return of_attention | {name: getattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj")}


def _joined(linears: list[Linear]) -> Linear:
    matrices, biases = zip(*linears, strict=True)
    given = [bias for bias in biases if bias is not None]
    return torch.cat(matrices).t(), torch.cat(given) if given else None


def _matrix(linear: Any, dtype: torch.dtype) -> Linear:
    """Weight (out, in) and bias in this dtype, with the active adapters merged: rounded once."""
    base = linear.get_base_layer() if _is_lora(linear) else linear
    weight, bias = base.weight.detach(), base.bias
    if _is_lora(linear) and not linear.disable_adapters and not linear.merged:
        exact = torch.promote_types(weight.dtype, torch.float32)
        for adapter in linear.active_adapters:
            if adapter in linear.lora_A:
                a, b = (x[adapter].weight.detach().to(exact) for x in (linear.lora_A, linear.lora_B))
                weight = torch.addmm(weight.to(exact), b, a, alpha=linear.scaling[adapter])
    return weight.to(dtype), None if bias is None else bias.detach().to(dtype)


def _is_lora(module: nn.Module) -> bool:
    return type(module).__module__ == "peft.tuners.lora.layer" and type(module).__name__ == "Linear"


def _unknown(linear: Any) -> str | None:
    """Why a projection is not a matrix and a bias."""
    if not _is_lora(linear):
        return None if type(linear) is nn.Linear else f"is a {type(linear).__name__}"
    if type(linear.get_base_layer()) is not nn.Linear:
        return f"has an adapter around a {type(linear.get_base_layer()).__name__}"
    if linear.fan_in_fan_out or linear.lora_variant or any(linear.lora_bias.values()):
        return "has an adapter that is not a plain LoRA"
    return None


def _changed(module: nn.Module) -> str | None:
    """Why a module does not run as its class says."""
    if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 and module.training:
        return f"drops out {module.p}"
    if module._forward_hooks or module._forward_pre_hooks:
        return "has forward hooks"
    # accelerate wraps the whole model's forward, which changes only the dtype of the logits; TRL adds a loss
    own = vars(module).get("forward")
    if own is not None and not (hasattr(module, "_original_forward") or _of_trl(own)):
        return "has a forward of its own"
    return None


def _of_trl(forward: Any) -> bool:
    """Whether TRL's `add_fused_lm_head` made it."""
    return getattr(forward, "__globals__", {}).get("__name__") == "trl.trainer.utils"
