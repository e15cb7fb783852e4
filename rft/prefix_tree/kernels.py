"""One attention call over several spans of a packed row: query span i attends key span i, and nothing else. A
call returns outputs with their log-sum-exp, so that calls over different keys can be merged, and its backward
takes the MERGED output and log-sum-exp, which makes it return exactly this call's share of the gradients.

On CPU the spans are one padded batch of PyTorch's flash kernel. On CUDA they are one call of a kernel over
variable lengths: FlashAttention in half precision (flash_attn's if it is installed, otherwise PyTorch's own;
cuDNN's dense attention for one long span, if it is faster), and PyTorch's memory-efficient attention in
float32. The kernels support grouped-query attention, except the
memory-efficient one, for which keys and values are repeated per query head. `refusal` names what no kernel
takes.

Rows that grow their own keys in a cache of fixed shape (sampling) have a call of their own, `flash_used`.

Shapes: T tokens packed, N queries of the call in span order, M its keys, H query heads, K key heads, D head
size, n spans of at most L.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from packaging import version
from torch import Tensor

from rft.errors import ModelError
from rft.prefix_tree import cudnn

logger = logging.getLogger(__name__)

HALF = (torch.bfloat16, torch.float16)
"""Dtypes that FlashAttention on CUDA takes."""

FLASH_ATTN = "2.8"
"""The oldest version of the flash_attn package that is used."""

LSE_STEP = 32
"""The memory-efficient kernel pads rows of log-sum-exps to a multiple of this length."""

Span = tuple[int, int]
Lengths = tuple[Tensor | None, int | None, Tensor | None, int | None]
"""For queries, then keys: int32 offsets of the spans (each start, and the last end) and the longest span;
None: a dense batch."""

Rows = slice | Tensor
"""Slots of the packed row: a slice if they are contiguous (indexing with it is a view), otherwise their
indices."""


def rows_of(spans: Sequence[Span], device: torch.device) -> Rows:
    """The slots of the spans, one after the other."""
    if all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False)):
        return slice(spans[0][0], spans[-1][1])
    return torch.cat([torch.arange(start, end) for start, end in spans]).to(device)


def flash(
    q_nHLD: Tensor,
    k_nKSD: Tensor,
    v_nKSD: Tensor,
    scale: float,
    causal: bool = False,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of a dense batch: outputs (n, H, L, D) and log-sum-exps (n, H, L). `bias` is added to the
    scores, on CPU only."""
    if q_nHLD.device.type == "cuda":
        q, k, v = (x.transpose(1, 2) for x in (q_nHLD, k_nKSD, v_nKSD))
        if q.dtype == torch.float32:
            out, lse = efficient_forward(q, k, v, (None, None, None, None), scale, causal)
            return out.transpose(1, 2), lse[:, :, : q.shape[1]]
        out, lse = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, q.shape[1], k.shape[1], 0.0, causal, False, scale=scale
        )[:2]
        return out.transpose(1, 2), lse
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q_nHLD, k_nKSD, v_nKSD, 0.0, causal, attn_mask=bias, scale=scale
    )


def flash_used(
    q_NKD: Tensor, k_RSKD: Tensor, v_RSKD: Tensor, used_R: Tensor, lengths: Lengths, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention on CUDA of rows over the keys that each has used of its space for S: outputs (N, K, D) and
    log-sum-exps (N, K). How many it has used is read on the device, so that the call is the same while rows
    grow.

    Args:
        q_NKD: equally many queries for every row, in row order; heads of a group are queries.
        used_R: int32, at least 1.
        lengths: spans of the queries, and of the space.
    """
    k, v = k_RSKD.flatten(0, 1), v_RSKD.flatten(0, 1)
    if q_NKD.dtype == torch.float32:
        out, lse_RKL = efficient_forward(q_NKD[None], k[None], v[None], lengths, scale, False, used_R)
        return out.squeeze(0), lse_RKL[:, :, : lengths[1]].transpose(1, 2).flatten(0, 1)
    cu_q, max_q, cu_k, max_k = lengths
    out, lse_KN = torch.ops.aten._flash_attention_forward(
        q_NKD, k, v, cu_q, cu_k, max_q, max_k, 0.0, False, False, scale=scale, seqused_k=used_R
    )[:2]
    return out, lse_KN.transpose(0, 1)


def efficient_forward(
    q_nLHD: Tensor,
    k_nSKD: Tensor,
    v_nSKD: Tensor,
    lengths: Lengths,
    scale: float,
    causal: bool,
    used_n: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Memory-efficient attention on CUDA: of a dense batch, or, given `lengths`, of the spans of a batch of
    one, and given `used_n` of only so many keys of each span.

    Returns:
        Outputs (n, L, H, D), and log-sum-exps (spans, H, the longest rounded up to LSE_STEP): garbage after a
        span.
    """
    k, v = (per_query_head(x, q_nLHD.shape[2]) for x in (k_nSKD, v_nSKD))
    cu_q, max_q, cu_k, max_k = lengths
    return torch.ops.aten._efficient_attention_forward(
        q_nLHD, k, v, None, cu_q, cu_k, max_q, max_k, 0.0, int(causal), True, scale=scale, seqlen_k=used_n
    )[:2]


def efficient_backward(
    dout_NHD: Tensor,
    q_NHD: Tensor,
    k_MKD: Tensor,
    v_MKD: Tensor,
    out_NHD: Tensor,
    lse_nHL: Tensor,
    lengths: Lengths,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq (N, H, D), dk and dv (M, K, D) of spans. The kernel also reads `lse_nHL` after the end of a span: it
    must be infinite there, so that the probabilities are 0."""
    dout, q, k, v, out = (x[None] for x in (dout_NHD, q_NHD, k_MKD, v_MKD, out_NHD))
    k, v = (per_query_head(x, q.shape[2]) for x in (k, v))
    cu_q, max_q, cu_k, max_k = lengths
    unused = torch.empty((), dtype=torch.int64, device=q.device)  # the state of a dropout that is 0
    dq, dk, dv = torch.ops.aten._efficient_attention_backward(
        dout,
        q,
        k,
        v,
        None,
        out,
        cu_q,
        cu_k,
        max_q,
        max_k,
        lse_nHL,
        0.0,
        unused,
        unused,
        int(causal),
        False,
        scale=scale,
    )[:3]
    groups = (k_MKD.shape[1], -1)
    return dq.squeeze(0), dk.squeeze(0).unflatten(1, groups).sum(2), dv.squeeze(0).unflatten(1, groups).sum(2)


def per_query_head(x_nSKD: Tensor, heads: int) -> Tensor:
    """Keys or values repeated for every query head that reads them."""
    return x_nSKD if x_nSKD.shape[2] == heads else x_nSKD.repeat_interleave(heads // x_nSKD.shape[2], 2)


class Batch:
    """Spans of a packed row as the (n, heads, L, ...) batch that the dense kernels take: a view if the spans
    are equally long and adjacent, otherwise a copy padded with zeros."""

    def __init__(self, spans: Sequence[Span], device: torch.device):
        sizes = [end - start for start, end in spans]
        self.rows = rows_of(spans, device)
        self.shape = (len(spans), max(sizes))
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
        # causal spans are padded after their last query: nothing to hide
        hidden = None if causal else self.keys.valid_nL
        self.bias = (
            None
            if hidden is None
            else torch.zeros(hidden.shape).masked_fill_(~hidden, -torch.inf)[:, None, None]
        )

    def _bias(self, like: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.to(like)

    def forward(self, q_NHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """The call's outputs (N, H, D) and log-sum-exps (N, H), queries and keys given in span order."""
        return self.forward_packed(q_NHD, self.pack_keys(k_MKD), self.pack_keys(v_MKD), scale)

    def pack_keys(self, x_MKD: Tensor) -> Tensor:
        """Keys or values as `forward_packed` takes them, which may be used again."""
        return self.keys.pack(x_MKD)

    def forward_packed(self, q_NHD: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """`forward` of packed keys and values."""
        out, lse = flash(self.queries.pack(q_NHD), k, v, scale, self.causal, self._bias(q_NHD))
        return self.queries.unpack(out), self.queries.unpack(lse)

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
        """This call's share of dq (N, H, D), dk and dv (M, K, D), given the merged `out_NHD` and `lse_NH` of
        its queries."""
        pack = self.queries.pack
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            pack(dout_NHD),
            pack(q_NHD),
            self.keys.pack(k_MKD),
            self.keys.pack(v_MKD),
            pack(out_NHD),
            pack(lse_NH),
            0.0,
            self.causal,
            attn_mask=self._bias(q_NHD),
            scale=scale,
        )
        return self.queries.unpack(dq), self.keys.unpack(dk), self.keys.unpack(dv)


class VarlenCall:
    """The call on CUDA, where the kernel depends on the operands' dtype."""

    def __init__(self, queries: Sequence[Span], keys: Sequence[Span], causal: bool, device: torch.device):
        self.query_rows, self.key_rows = rows_of(queries, device), rows_of(keys, device)
        self.lengths = (*self._offsets(queries, device), *self._offsets(keys, device))
        self.lse_shape = (len(queries), -(-self.lengths[1] // LSE_STEP) * LSE_STEP)
        self.causal = causal
        pairs = self.lengths[1] * self.lengths[3] // (2 if causal else 1)
        alone = len(queries) == 1 and min(self.lengths[1], self.lengths[3]) >= cudnn.LEAST
        self.pairs = pairs if alone else 0
        self.flash, self.long_span = Flash(self.lengths, causal), cudnn.LongSpan(causal)

    @staticmethod
    def _offsets(spans: Sequence[Span], device: torch.device) -> tuple[Tensor, int]:
        sizes = torch.tensor([0] + [end - start for start, end in spans], dtype=torch.int32)
        return sizes.cumsum(0, dtype=torch.int32).to(device), int(sizes.max())

    @functools.cached_property
    def cells_N(self) -> Tensor:
        """Indices of the queries' log-sum-exps in the memory-efficient kernel's flattened table."""
        sizes_n = self.lengths[0].diff()
        within = torch.arange(self.lse_shape[1], device=sizes_n.device) < sizes_n[:, None]
        return within.flatten().nonzero().squeeze(1)

    def _lse_table(self, lse_NH: Tensor) -> Tensor:
        """(N, H) -> (n, H, `lse_shape[1]`), infinite after each span."""
        n, width = self.lse_shape
        table = lse_NH.new_full((n * width, lse_NH.shape[1]), torch.inf).index_copy_(0, self.cells_N, lse_NH)
        return table.unflatten(0, (n, width)).transpose(1, 2).contiguous()

    def pack_keys(self, x_MKD: Tensor) -> Tensor:
        """As `DenseCall.pack_keys`."""
        return x_MKD

    def forward_packed(self, q_NHD: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """As `DenseCall.forward_packed`."""
        return self.forward(q_NHD, k, v, scale)

    def forward(self, q_NHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """As `DenseCall.forward`."""
        q, k, v = (x.contiguous() for x in (q_NHD, k_MKD, v_MKD))
        if q.dtype == torch.float32:
            out, lse_nHL = efficient_forward(q[None], k[None], v[None], self.lengths, scale, self.causal)
            return out.squeeze(0), lse_nHL.transpose(1, 2).flatten(0, 1)[self.cells_N]
        return self._of_half(q, k, lambda call: call.forward(q, k, v, scale))

    def _of_half(self, q: Tensor, k: Tensor, work: Callable[[Any], Any]) -> Any:
        """Does the work by cuDNN, if this is one long span for which it pays, otherwise by FlashAttention."""
        if self.pairs and self.pairs >= cudnn.least_pairs(q, k, Flash.of_one_span):
            try:
                return work(self.long_span)
            except RuntimeError as error:
                cudnn.give_up(error)
        return work(self.flash)

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
        """As `DenseCall.backward`."""
        dout, q, k, v, out = (x.contiguous() for x in (dout_NHD, q_NHD, k_MKD, v_MKD, out_NHD))
        if q.dtype == torch.float32:
            return efficient_backward(
                dout, q, k, v, out, self._lse_table(lse_NH), self.lengths, scale, self.causal
            )
        return self._of_half(q, k, lambda call: call.backward(dout, q, k, v, out, lse_NH, scale))


class Flash:
    """FlashAttention over spans of variable lengths, on CUDA."""

    def __init__(self, lengths: Lengths, causal: bool):
        self.lengths, self.causal = lengths, causal

    @staticmethod
    def of_one_span(tokens: int, device: torch.device) -> Flash:
        """The call of a span over as many keys, not causal."""
        ends = torch.tensor([0, tokens], dtype=torch.int32, device=device)
        return Flash((ends, tokens, ends, tokens), False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """As `DenseCall.forward`, of contiguous operands."""
        cu_q, max_q, cu_k, max_k = self.lengths
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
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse_NH: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `DenseCall.backward`, of contiguous operands."""
        cu_q, max_q, cu_k, max_k = self.lengths
        lse = lse_NH.transpose(0, 1).contiguous()
        if (flash := flash_attn()) is not None:
            gradients, spans = [torch.empty_like(x) for x in (q, k, v)], (cu_q, cu_k, max_q, max_k)
            flash._flash_attn_varlen_backward(
                *(dout, q, k, v, out, lse, *gradients, *spans),
                dropout_p=0.0,
                softmax_scale=scale,
                causal=self.causal,
                window_size_left=-1,
                window_size_right=-1,
                softcap=0.0,
                alibi_slopes=None,
                deterministic=False,
            )
            return gradients[0], gradients[1], gradients[2]
        unused = torch.empty(2, dtype=torch.uint64, device=q.device)  # the state of a dropout that is 0
        return torch.ops.aten._flash_attention_backward(
            dout, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, 0.0, self.causal, unused, unused, scale=scale
        )


Call = DenseCall | VarlenCall


def call(queries: Sequence[Span], keys: Sequence[Span], causal: bool, device: torch.device) -> Call:
    """Makes the call for the device's kernel."""
    return (VarlenCall if device.type == "cuda" else DenseCall)(queries, keys, causal, device)


def check(q: Tensor) -> None:
    """Checks that a kernel of their device takes these queries.

    Raises:
        ModelError: If none does.
    """
    if reason := refusal(q):
        raise ModelError(f"prefix sharing cannot run here: {reason}; set `prefix_sharing: off`")


def refusal(q: Tensor) -> str | None:
    """Says why no kernel of their device takes queries of this dtype and head size (the last dimension); None
    if one does."""
    size = q.shape[-1]
    if q.device.type not in ("cpu", "cuda"):
        return f"it runs on cpu and cuda, not {q.device.type}"
    if q.device.type == "cuda" and q.dtype not in (*HALF, torch.float32):
        return f"attention kernels on CUDA take bf16, fp16 and float32, not {q.dtype}"
    if q.device.type == "cuda" and q.dtype in HALF and not flash_takes(q.dtype, size):
        return f"FlashAttention takes head sizes that are multiples of 8 up to 256, not {size}"
    if q.device.type == "cuda" and q.dtype == torch.float32 and size % 4:
        return f"attention in float32 on CUDA takes head sizes that are multiples of 4, not {size}"
    return None


def flash_takes(dtype: torch.dtype, head_size: int) -> bool:
    """Whether FlashAttention on CUDA takes this dtype and head size."""
    return dtype in HALF and head_size % 8 == 0 and head_size <= 256


@functools.cache
def flash_attn() -> ModuleType | None:
    """The interface of the flash_attn package; None if it is not installed or too old."""
    try:
        import flash_attn as package
        from flash_attn import flash_attn_interface
    except ImportError:  # FlashAttention 4 also installs a package of this name, without the interface
        return None
    installed = getattr(package, "__version__", FLASH_ATTN)
    if version.parse(installed) < version.parse(FLASH_ATTN):
        logger.warning(
            "flash-attn %s is older than %s: PyTorch's own FlashAttention runs instead", installed, FLASH_ATTN
        )
        return None
    return flash_attn_interface
