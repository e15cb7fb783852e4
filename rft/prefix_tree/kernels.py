"""One attention call over several spans of a packed row: query span i attends key span i, and nothing else. A call
returns outputs with their log-sum-exp, so that calls over different keys can be merged, and its backward takes the
MERGED output and log-sum-exp, which makes it return exactly this call's share of the gradients.

On CPU the spans are one padded batch of PyTorch's flash kernel; on CUDA one call of the variable-length flash
kernels, PyTorch's own or flash_attn's where that is installed. Grouped-query attention is the kernels' own: keys and
values are never repeated per query head.

Shapes: T tokens packed, N queries of the call in span order, M its keys, H query heads, K key heads, D head size, n
spans of at most L.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from rft.errors import ModelError

Span = tuple[int, int]
Rows = slice | Tensor
"""Slots of the packed row: a slice where they are contiguous (indexing with it is a view), else their indices."""


def rows_of(spans: Sequence[Span], device: torch.device) -> Rows:
    """The slots of the spans, one after the other."""
    if all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False)):
        return slice(spans[0][0], spans[-1][1])
    return torch.cat([torch.arange(start, end) for start, end in spans]).to(device)


def flash(
    q_nHLD: Tensor, k_nKSD: Tensor, v_nKSD: Tensor, scale: float, causal: bool = False, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of a dense batch: outputs (n, H, L, D) and log-sum-exps (n, H, L). `bias` is added to the scores, on
    CPU only."""
    if q_nHLD.device.type == "cuda":
        q, k, v = (x.transpose(1, 2) for x in (q_nHLD, k_nKSD, v_nKSD))
        out, lse = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, q.shape[1], k.shape[1], 0.0, causal, False, scale=scale
        )[:2]
        return out.transpose(1, 2), lse
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q_nHLD, k_nKSD, v_nKSD, 0.0, causal, attn_mask=bias, scale=scale
    )


class Batch:
    """Spans of a packed row as the (n, heads, L, ...) batch that the dense kernels take: a view where the spans are
    equally long and adjacent, else a copy padded with zeros."""

    def __init__(self, spans: Sequence[Span], device: torch.device):
        sizes = [end - start for start, end in spans]
        self.rows = rows_of(spans, device)
        self.shape = (len(spans), max(sizes))
        self.dense = isinstance(self.rows, slice) and min(sizes) == max(sizes)
        within = torch.arange(self.shape[1]) < torch.tensor(sizes)[:, None]
        self.valid_nL = None if min(sizes) == max(sizes) else within.to(device)
        self.cells_N = within.flatten().nonzero().squeeze(1).to(device)

    def pack(self, x_N: Tensor) -> Tensor:
        """(N, heads, ...) in span order -> (n, heads, L, ...)."""
        if len(self.cells_N) < self.shape[0] * self.shape[1]:
            padded = x_N.new_zeros(self.shape[0] * self.shape[1], *x_N.shape[1:])
            x_N = padded.index_copy_(0, self.cells_N, x_N)
        return x_N.unflatten(0, self.shape).transpose(1, 2)

    def unpack(self, x_nHL: Tensor) -> Tensor:
        """(n, heads, L, ...) -> (N, heads, ...) in span order, padding dropped."""
        flat = x_nHL.transpose(1, 2).flatten(0, 1)
        return flat if len(flat) == len(self.cells_N) else flat[self.cells_N]


class DenseCall:
    """The call on CPU: aten::_scaled_dot_product_flash_attention_for_cpu, in float64 and bfloat16 too."""

    def __init__(self, queries: Sequence[Span], keys: Sequence[Span], causal: bool, device: torch.device):
        self.queries, self.keys, self.causal = Batch(queries, device), Batch(keys, device), causal
        self.query_rows, self.key_rows = self.queries.rows, self.keys.rows
        hidden = None if causal else self.keys.valid_nL  # causal spans are padded behind their last query: nothing to hide
        self.bias = None if hidden is None else torch.zeros(hidden.shape).masked_fill_(~hidden, -torch.inf)[:, None, None]

    def _bias(self, like: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.to(like)

    def forward(self, q_NHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """The call's outputs (N, H, D) and log-sum-exps (N, H), queries and keys given in span order."""
        q, k, v = self.queries.pack(q_NHD), self.keys.pack(k_MKD), self.keys.pack(v_MKD)
        out, lse = flash(q, k, v, scale, self.causal, self._bias(q_NHD))
        return self.queries.unpack(out), self.queries.unpack(lse)

    def backward(
        self, dout_NHD: Tensor, q_NHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, out_NHD: Tensor, lse_NH: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """This call's share of dq (N, H, D), dk and dv (M, K, D), given the merged `out_NHD` and `lse_NH` of its
        queries."""
        pack = self.queries.pack
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            pack(dout_NHD), pack(q_NHD), self.keys.pack(k_MKD), self.keys.pack(v_MKD), pack(out_NHD), pack(lse_NH),
            0.0, self.causal, attn_mask=self._bias(q_NHD), scale=scale,
        )  # fmt: skip
        return self.queries.unpack(dq), self.keys.unpack(dk), self.keys.unpack(dv)


class VarlenCall:
    """The call on CUDA: FlashAttention over variable lengths, half precision only."""

    def __init__(self, queries: Sequence[Span], keys: Sequence[Span], causal: bool, device: torch.device):
        self.query_rows, self.key_rows = rows_of(queries, device), rows_of(keys, device)
        self.lengths = (*self._offsets(queries, device), *self._offsets(keys, device))
        self.causal = causal

    @staticmethod
    def _offsets(spans: Sequence[Span], device: torch.device) -> tuple[Tensor, int]:
        sizes = torch.tensor([0] + [end - start for start, end in spans], dtype=torch.int32)
        return sizes.cumsum(0, dtype=torch.int32).to(device), int(sizes.max())

    def forward(self, q_NHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """As DenseCall's."""
        cu_q, max_q, cu_k, max_k = self.lengths
        q, k, v = (x.contiguous() for x in (q_NHD, k_MKD, v_MKD))
        if (flash := flash_attn()) is not None:
            out, lse = flash._flash_attn_varlen_forward(
                q, k, v, cu_q, cu_k, max_q, max_k, dropout_p=0.0, softmax_scale=scale, causal=self.causal
            )[:2]
        else:
            out, lse = torch.ops.aten._flash_attention_forward(
                q, k, v, cu_q, cu_k, max_q, max_k, 0.0, self.causal, False, scale=scale
            )[:2]
        return out, lse.transpose(0, 1)

    def backward(
        self, dout_NHD: Tensor, q_NHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, out_NHD: Tensor, lse_NH: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As DenseCall's."""
        cu_q, max_q, cu_k, max_k = self.lengths
        dout, q, k, v, out = (x.contiguous() for x in (dout_NHD, q_NHD, k_MKD, v_MKD, out_NHD))
        lse = lse_NH.transpose(0, 1).contiguous()
        if (flash := flash_attn()) is not None:
            dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
            flash._flash_attn_varlen_backward(
                dout, q, k, v, out, lse, dq, dk, dv, cu_q, cu_k, max_q, max_k, dropout_p=0.0, softmax_scale=scale,
                causal=self.causal, window_size_left=-1, window_size_right=-1, softcap=0.0, alibi_slopes=None,
                deterministic=False,
            )  # fmt: skip
            return dq, dk, dv
        unused = torch.empty(2, dtype=torch.uint64, device=q.device)  # the state of a dropout that is 0
        return torch.ops.aten._flash_attention_backward(
            dout, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, 0.0, self.causal, unused, unused, scale=scale
        )


Call = DenseCall | VarlenCall


def call(queries: Sequence[Span], keys: Sequence[Span], causal: bool, device: torch.device) -> Call:
    """The call of the device's kernel."""
    return (VarlenCall if device.type == "cuda" else DenseCall)(queries, keys, causal, device)


def check_dtype(q: Tensor) -> None:
    """Raises ModelError for what the device's flash kernels cannot take."""
    if q.device.type == "cuda" and q.dtype not in (torch.bfloat16, torch.float16):
        raise ModelError(
            f"prefix sharing on CUDA runs on flash kernels, which take bf16 or fp16, not {q.dtype}: load the model in bf16"
        )
    if q.device.type not in ("cpu", "cuda"):
        raise ModelError(f"prefix sharing runs on cpu and cuda, not {q.device.type}; set `prefix_sharing: off`")


@functools.cache
def flash_attn() -> ModuleType | None:
    """The interface of the flash_attn package, None where it is not installed."""
    try:
        from flash_attn import flash_attn_interface
    except ImportError:
        return None
    return flash_attn_interface
