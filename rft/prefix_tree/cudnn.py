"""cuDNN's attention of one long span, chosen if it is measured to pay on this device.

Invariant: it returns what `kernels.VarlenCall` returns, forward and backward, also for merged outputs and
log-sum-exps. On an H200 it runs at 1.7 times the speed of FlashAttention 2, but cuDNN prepares itself for
every new length. So both are measured once, and cuDNN takes spans of so many query-key pairs that a model's
layers save more time than the preparation costs. RFT_ATTENTION=flash or =cudnn chooses without measuring.

Shapes: N queries of the span, M its keys, H query heads, K key heads, D head size.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rft.errors import ModelError

logger = logging.getLogger(__name__)

CHOICE = "RFT_ATTENTION"
"""Environment variable: flash or cudnn, for all long spans."""

LEAST = 128
"""Shorter spans, of queries or keys, are left to FlashAttention."""

LAYERS = 16
"""How many layers at least use a length again."""

TOLERANCE = 2.0
"""The most that cuDNN's error may be, relative to that of FlashAttention."""

CHECKED, TIMED = 1023, 4095
"""Tokens over which errors and times are measured; odd, as histories are."""


PIECES = 16
"""Pieces in which few queries attend many keys, so that more of the card's processors work at once: on an
H200, 128 queries of 8 heads over 32,768 keys take 39 microseconds; FlashAttention, which also cuts, 76."""

PIECE_STEP = 128
"""The length of pieces is a multiple of this, so that histories of like lengths share a preparation."""

Flash = Callable[[int, torch.device], Any]
"""Makes FlashAttention's call of a span of this number of tokens over as many keys, not causal."""


class LongSpan:
    """Attention of one span by cuDNN. Causal spans have as many queries as keys."""

    def __init__(self, causal: bool):
        self.causal = causal

    def forward(self, q_NHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Outputs (N, H, D) and log-sum-exps (N, H)."""
        out_1HND, lse, *self.state, _ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            *_dense(q_NHD, k_MKD, v_MKD), None, True, 0.0, self.causal, False, scale=scale
        )
        self.lse_shape = lse.shape  # with or without a last dimension of 1
        return out_1HND.squeeze(0).transpose(0, 1), lse.reshape(q_NHD.shape[1], len(q_NHD)).t()

    def backward(
        self,
        dout_NHD: Tensor,
        q_NHD: Tensor,
        k_MKD: Tensor,
        v_MKD: Tensor,
        out_NHD: Tensor,
        lse_NH: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """After `forward`: this span's share of dq (N, H, D), dk and dv (M, K, D), given merged outputs and
        log-sum-exps."""
        cu_q, cu_k, max_q, max_k, seed, offset = self.state  # of a dropout that is 0
        dout, q, k, v, out = _dense(dout_NHD, q_NHD, k_MKD, v_MKD, out_NHD)
        shares = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            dout,
            q,
            k,
            v,
            out,
            lse_NH.t().contiguous().reshape(self.lse_shape),
            seed,
            offset,
            None,
            cu_q,
            cu_k,
            max_q,
            max_k,
            0.0,
            self.causal,
            scale=scale,
        )
        dq, dk, dv = (x.squeeze(0).transpose(0, 1) for x in shares)
        return dq, dk, dv


def attends(q_NHD: Tensor, k_MKD: Tensor, flash: Flash) -> bool:
    """Whether cuDNN attends long spans of such operands."""
    return q_NHD.dtype in (torch.bfloat16, torch.float16) and least_pairs(q_NHD, k_MKD, flash) < math.inf


def piece(keys: int) -> int:
    """The keys of each piece; the rest is not attended in pieces."""
    return keys // (PIECES * PIECE_STEP) * PIECE_STEP


def forward_in_pieces(
    q_NKD: Tensor, k_MKD: Tensor, v_MKD: Tensor, scale: float
) -> tuple[Tensor, Tensor] | None:
    """Outputs (PIECES, N, K, D) and log-sum-exps (PIECES, N, K) over each piece; None if cuDNN failed."""
    if _given_up:
        return None
    shape = (PIECES, piece(len(k_MKD)))
    q = q_NKD.transpose(0, 1).expand(PIECES, -1, -1, -1)
    k, v = (x[: math.prod(shape)].unflatten(0, shape).transpose(1, 2) for x in (k_MKD, v_MKD))
    try:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, 0.0, False, False, scale=scale
        )
    except RuntimeError as error:
        give_up(error)
        return None
    return out.transpose(1, 2), lse.reshape(q.shape[:3]).transpose(1, 2)


def _dense(*operands_NHD: Tensor) -> list[Tensor]:
    return [x.transpose(0, 1)[None] for x in operands_NHD]


@dataclass(frozen=True)
class Measured:
    """FlashAttention and cuDNN on one device.

    Attributes:
        flash_error, error: relative to attention in float32, of outputs and gradients.
        pairs: query-key pairs of the timed span.
        flash_seconds, seconds: forward and backward.
        first_seconds: the same of cuDNN at a length that it has not seen.
    """

    flash_error: float
    error: float
    pairs: int
    flash_seconds: float
    seconds: float
    first_seconds: float

    def least_pairs(self) -> float:
        """From how many query-key pairs cuDNN pays; infinite if never."""
        saved = (self.flash_seconds - self.seconds) / self.pairs
        if saved <= 0 or not self.error <= TOLERANCE * self.flash_error:
            return math.inf
        return max(self.first_seconds - self.seconds, 0.0) / (LAYERS * saved)


def least_pairs(q_NHD: Tensor, k_MKD: Tensor, flash: Flash) -> float:
    """From how many query-key pairs on cuDNN attends a span; infinite if it never does.

    Raises:
        ModelError: If the environment variable names no kernel.
    """
    choice = os.environ.get(CHOICE, "")
    if choice not in ("", "flash", "cudnn"):
        raise ModelError(f"{CHOICE}={choice}: expected flash or cudnn, or nothing for the faster one")
    if choice == "flash" or _given_up:
        return math.inf
    if choice == "cudnn":
        return 0.0
    return _measured_least(q_NHD.device, q_NHD.dtype, q_NHD.shape[1:], k_MKD.shape[1], flash)


@functools.cache
def _measured_least(
    device: torch.device, dtype: torch.dtype, heads: torch.Size, key_heads: int, flash: Flash
) -> float:
    if not torch.backends.cuda.cudnn_sdp_enabled():
        return math.inf
    try:
        with (
            torch.random.fork_rng([device] if device.type != "cpu" else []),
            # in a thread of its own, as nothing here may be seen by a checkpoint of the layer or by autocast
            ThreadPoolExecutor(1) as thread,
        ):
            measured = thread.submit(measure, device, dtype, heads, key_heads, flash).result()
    except RuntimeError as error:
        give_up(error)
        return math.inf
    least = measured.least_pairs()
    if least < math.inf:
        logger.info(
            "long spans: cuDNN attends from %.1e query-key pairs on, %.2f times as fast as FlashAttention",
            least,
            measured.flash_seconds / measured.seconds,
        )
    return least


_given_up: list[str] = []
"""Why cuDNN is used no more in this process."""


def give_up(error: RuntimeError) -> None:
    """FlashAttention attends all spans from now on, which the log says once. Raises out of memory again."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    if not _given_up:
        _given_up.append(str(error).strip().split("\n")[0])
        logger.warning("long spans: FlashAttention attends them, since cuDNN failed (%s)", _given_up[0])


def measure(
    device: torch.device, dtype: torch.dtype, heads: torch.Size, key_heads: int, flash: Flash
) -> Measured:
    """Measures FlashAttention and cuDNN on random operands.

    Args:
        heads: query heads and head size.
    """
    checked = _operands(CHECKED, device, dtype, heads, key_heads)
    exact = _both(_Exact(), *(x.float() for x in checked))
    errors = [
        max(
            ((x.float() - y).norm() / y.norm()).item()
            for x, y in zip(_both(one, *checked), exact, strict=True)
        )
        for one in (flash(CHECKED, device), LongSpan(False))
    ]
    timed = _operands(TIMED, device, dtype, heads, key_heads)
    by_flash, by_cudnn = flash(TIMED, device), LongSpan(False)
    first = _seconds(by_cudnn, timed)
    _seconds(by_flash, timed)
    seconds = [min(_seconds(one, timed) for _ in range(3)) for one in (by_flash, by_cudnn)]
    return Measured(errors[0], errors[1], TIMED * TIMED, seconds[0], seconds[1], first)


def _operands(
    tokens: int, device: torch.device, dtype: torch.dtype, heads: torch.Size, key_heads: int
) -> list[Tensor]:
    """Random q, k, v and gradient of the output."""
    sizes = (heads[0], key_heads, key_heads, heads[0])
    return [torch.randn(tokens, size, heads[1], device=device).to(dtype) for size in sizes]


def _both(one: Any, q: Tensor, k: Tensor, v: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
    """Output, dq, dk and dv."""
    scale = q.shape[-1] ** -0.5
    out, lse = one.forward(q, k, v, scale)
    return out, *one.backward(dout, q, k, v, out, lse, scale)


def _seconds(one: Any, operands: list[Tensor]) -> float:
    start = time.perf_counter()
    for x in _both(one, *operands):
        x.flatten()[0].item()  # waits for the device
    return time.perf_counter() - start


class _Exact:
    """Plain attention."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        self.given = [x.detach().requires_grad_() for x in (q, k, v)]
        groups = q.shape[1] // k.shape[1]
        with torch.enable_grad():
            query, key, value = self.given
            key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
            scores_HNM = torch.einsum("nhd,mhd->hnm", query, key) * scale
            self.out = torch.einsum("hnm,mhd->nhd", scores_HNM.softmax(-1), value)
        return self.out.detach(), scores_HNM.detach().logsumexp(-1).t()

    def backward(self, dout: Tensor, *_: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.out, self.given, dout)
