"""The forward of a decode step: the rows' next tokens to their logits.

Layers of known families run here in few operations, over weights arranged for the rollout (`Fused`); all
others by the model's own forward (`General`), which the log says once. Both are the same function up to
rounding. Around the layers, embedding, last norm and output head are the model's own modules.

Shapes: R rows, M hidden size, H query heads over K key heads of size D, P positions, V vocabulary.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rft.prefix_tree import weights
from rft.prefix_tree.attention import forward_kwargs
from rft.prefix_tree.decode import Decode

logger = logging.getLogger(__name__)

Forward = Callable[[Tensor, Tensor], Tensor]
"""Tokens (R,) and their positions (R,) to logits (R, V)."""


def forward_of(model: nn.Module, bare: Any, decode: Decode, positions: range) -> Forward:
    """The forward of decode steps of this model.

    Args:
        model: a causal language model after `attention.enable`, wrapped or not.
        bare: the same without what wraps it for parallel training.
        decode: the rows.
        positions: those that new tokens can have.
    """
    if (why := weights.refusal(bare)) is None:
        return Fused(bare, decode, positions)
    _say_general(why)
    return General(model, decode)


@functools.cache
def _say_general(why: str) -> None:
    logger.info("decoding takes more operations than for known layers: %s", why)


class General:
    """The model's own forward."""

    def __init__(self, model: nn.Module, decode: Decode):
        self.model, self.decode = model, decode

    def __call__(self, tokens_R: Tensor, positions_R: Tensor) -> Tensor:
        """The logits (R, V) of the rows' next tokens."""
        return self.model(**forward_kwargs(tokens_R, positions_R, self.decode)).logits.squeeze(0)


class Fused:
    """The forward of a known family, in the dtype in which the prefill's attention ran. Norms and the
    residual stream keep the model's dtype, as under autocast."""

    def __init__(self, bare: Any, decode: Decode, positions: range):
        self.model, self.decode = weights.base_model(bare), decode
        self.decoder = self.model.base_model
        config = self.model.config.get_text_config()
        attention = self.decoder.layers[0].self_attn
        self.eps, self.scale = config.rms_norm_eps, attention.scaling
        self.heads, self.head_size = config.num_attention_heads, attention.head_dim
        self.rotated = self.heads + config.num_key_value_heads
        keys, _ = next(iter(decode.prefill.cache.values()))
        self.dtype, self.device = keys.dtype, keys.device
        torch.clear_autocast_cache()  # what the prefill cast is cast here again
        self.layers = weights.arrange(bare, self.dtype)
        self.rotate, self.gate = (decode.one_kernel(function) for function in (_rotated, _gated))
        self.first = positions.start
        self.cos_PD, self.sin_PD = self._rotations(positions)

    def _rotations(self, positions: range) -> tuple[Tensor, Tensor]:
        """Tables with x * cos + roll(x, D / 2) * sin the model's rotation: sin has rotate_half's signs."""
        like = self.decoder.embed_tokens.weight.new_empty(1)
        positions_1P = torch.arange(positions.start, positions.stop, device=self.device)[None]
        cos_PD, sin_PD = (x.squeeze(0) for x in self.decoder.rotary_emb(like, positions_1P))
        low, high = sin_PD.chunk(2, -1)
        return cos_PD, torch.cat((-low, high), -1)

    def __call__(self, tokens_R: Tensor, positions_R: Tensor) -> Tensor:
        """The logits (R, V) of the rows' next tokens."""
        x_RM = self.decoder.embed_tokens(tokens_R[None]).squeeze(0)
        places_R = positions_R - self.first
        cos, sin = (x.index_select(0, places_R).unsqueeze(1) for x in (self.cos_PD, self.sin_PD))
        with torch.autocast(self.device.type, enabled=False):
            for number, layer in enumerate(self.layers):
                x_RM = self._layer(number, layer, x_RM, cos, sin)
        return self.model.get_output_embeddings()(self.decoder.norm(x_RM[None])).squeeze(0)

    def _layer(self, number: int, layer: weights.Layer, x_RM: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        hidden = self._norm(x_RM, layer.norm)
        qkv_RSD = _linear(hidden, *layer.qkv).unflatten(1, (-1, self.head_size))
        qk_RSD = qkv_RSD[:, : self.rotated]
        qk_RSD.copy_(self.rotate(qk_RSD, layer.head_norms, cos, sin, self.eps))
        q_RHD, kv_RSD = qkv_RSD.split((self.heads, qkv_RSD.shape[1] - self.heads), 1)
        mixed = self.decode.attend_next(number, q_RHD, kv_RSD, self.scale).flatten(1)
        x_RM = _added(x_RM, mixed, *layer.out)
        hidden = self._norm(x_RM, layer.mlp_norm)
        gate_up = _linear(hidden, *layer.gate_up)
        return _added(x_RM, self.gate(gate_up), *layer.down)

    def _norm(self, x_RM: Tensor, weight_M: Tensor) -> Tensor:
        return functional.rms_norm(x_RM, weight_M.shape, weight_M, self.eps).to(self.dtype)


def _rotated(qk_RSD: Tensor, norms_SD: Tensor | None, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """Queries and keys after the norms of their heads, at their positions."""
    if norms_SD is not None:
        qk_RSD = functional.rms_norm(qk_RSD, qk_RSD.shape[-1:], None, eps) * norms_SD
    rolled = qk_RSD.roll(qk_RSD.shape[-1] // 2, -1)
    return torch.addcmul(qk_RSD * cos, rolled, sin)


def _gated(gate_up: Tensor) -> Tensor:
    """What the MLP's down projection takes."""
    gate, up = gate_up.chunk(2, -1)
    return functional.silu(gate) * up


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _added(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """residual + x @ weight + bias, in the residual's dtype and, if it can be, in its place."""
    if bias is None and residual.dtype == weight.dtype:
        return residual.addmm_(x, weight)
    return residual + _linear(x, weight, bias)
