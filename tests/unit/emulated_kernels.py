"""The attention kernels of CUDA on a CPU, as strict as they are: what a kernel would refuse raises `Refused`,
what it would read or write silently wrong raises too, and whatever it leaves unwritten is not a number.

`on_cpu` puts them in place: for its time the code that asks for CUDA finds it on the CPU. The rules are those
of PyTorch 2.13 (ATen/native/transformers/cuda: attention.cu, attention_backward.cu, flash_attn/flash_api.cpp,
and the kernels' headers under mem_eff_attention, which the wheel holds), and of flash_attn 2.8's
flash_attn_interface.py.

Shapes: N queries and M keys of the spans side by side, L and S of one span, n spans or rows of a batch, H
query heads, K key heads, D head size.
"""

import inspect
from collections import Counter
from contextlib import contextmanager
from importlib import import_module
from pkgutil import iter_modules
from types import FunctionType, SimpleNamespace

import torch

from rft import prefix_tree
from rft.prefix_tree import compiled, cudnn, kernels

HALF = (torch.bfloat16, torch.float16)
MODULES = [import_module(f"rft.prefix_tree.{found.name}") for found in iter_modules(prefix_tree.__path__)]


class Refused(RuntimeError):
    """What the kernel would refuse, or get wrong."""


def require(holds, why):
    if not holds:
        raise Refused(why)


def cuda_branches():
    """Every function of rft.prefix_tree that asks for CUDA."""
    found = {}
    for module in MODULES:
        owners = [
            module,
            *(x for x in vars(module).values() if inspect.isclass(x) and x.__module__ == module.__name__),
        ]
        for x in (x for owner in owners for x in vars(owner).values()):
            x = getattr(x, "__func__", x)
            if (
                isinstance(x, FunctionType)
                and x.__module__ == module.__name__
                and "cuda" in x.__code__.co_consts
            ):
                found[x.__qualname__] = x
    return found


@contextmanager
def on_cpu(monkeypatch, flash_attn=False):
    """CUDA's branches on the CPU, by PyTorch's operators or by flash_attn's interface; yields how often each
    kernel ran."""
    ran = Counter()
    with monkeypatch.context() as patch:
        for function in cuda_branches().values():
            code = function.__code__
            consts = tuple("cpu" if x == "cuda" else x for x in code.co_consts)
            patch.setattr(function, "__code__", code.replace(co_consts=consts))
        patch.setattr(kernels, "flash_attn", lambda: Package(ran) if flash_attn else None)
        patch.setattr(compiled, "_whole", lambda function: function)
        patch.setenv(cudnn.CHOICE, "flash")  # a test asks for cuDNN, since times say nothing here
        library = torch.library.Library("aten", "IMPL")
        operators = Operators(ran)
        for name in (
            "flash_attention_forward",
            "flash_attention_backward",
            "efficient_attention_forward",
            "efficient_attention_backward",
        ):
            library.impl(f"_{name}", getattr(operators, name), "CPU")
        library.impl("rms_norm", operators.rms_norm, "CPU")
        from emulated_cudnn import Cudnn

        for name in ("attention", "attention_backward"):
            name = f"scaled_dot_product_cudnn_{name}"
            library.impl(f"_{name}", getattr(Cudnn(ran), name), "CPU")
        try:
            yield ran
        finally:
            library._destroy()


@torch.autocast("cpu", enabled=False)  # which does not reach into a kernel
def attend(q_LHD, k_SKD, v_SKD, scale, causal):
    """One span: its outputs (L, H, D) and log-sum-exps (H, L). In half precision the probabilities are
    rounded before they meet the values, and normalised behind."""
    k, v = (x.float().repeat_interleave(q_LHD.shape[1] // x.shape[1], 1) for x in (k_SKD, v_SKD))
    scores = torch.einsum("lhd,shd->hls", q_LHD.float(), k) * scale
    if causal:
        scores = scores.masked_fill(hidden(scores), -torch.inf)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    out = torch.einsum("hls,shd->lhd", weights.to(q_LHD.dtype).float(), v) / weights.sum(-1).T[..., None]
    return out.to(q_LHD.dtype), scores.logsumexp(-1)


@torch.autocast("cpu", enabled=False)
def attend_backward(dout, q, k_SKD, v_SKD, out, lse_HL, scale, causal):
    """One span: dq (L, H, D), dk and dv (S, H, D)."""

    def rounded(x):
        return x.to(q.dtype).float()

    k, v = (x.float().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k_SKD, v_SKD))
    scores = torch.einsum("lhd,shd->hls", q.float(), k) * scale
    probs = (scores - lse_HL[..., None]).exp()
    if causal:
        probs = probs.masked_fill(hidden(scores), 0)
    towards = torch.einsum("lhd,shd->hls", dout.float(), v)
    dscores = probs * (towards - (dout.float() * out.float()).sum(-1).T[..., None])
    dv = torch.einsum("hls,lhd->shd", rounded(probs), dout.float())
    dq = torch.einsum("hls,shd->lhd", rounded(dscores), k) * scale
    dk = torch.einsum("hls,lhd->shd", rounded(dscores), q.float()) * scale
    return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype)


def hidden(scores_HLS):
    """Query i sees the keys up to i. All kernels agree on that where there are as many keys as queries."""
    require(
        scores_HLS.shape[1] == scores_HLS.shape[2],
        "causal spans of unequal length: the kernels align them differently",
    )
    return torch.ones(scores_HLS.shape[1:], dtype=torch.bool).triu(1)


def spans_of(cu_q, cu_k, max_q, max_k, q_NHD, k_MKD):
    """The spans (queries, keys) that the offsets stand for."""
    spans = []
    for cu, longest, x, of in ((cu_q, max_q, q_NHD, "queries"), (cu_k, max_k, k_MKD, "keys")):
        require(cu.dtype == torch.int32, f"offsets of {of} are {cu.dtype}, not int32")
        require(
            cu.dim() == 1 and cu.is_contiguous() and cu.device == x.device,
            f"offsets of {of}: {cu.shape}, {cu.device}",
        )
        require(type(longest) is int, f"the longest span of {of} is a {type(longest).__name__}")
        edges = cu.tolist()
        sizes = [end - start for start, end in zip(edges, edges[1:], strict=False)]
        require(
            sizes and edges[0] == 0 and edges[-1] == len(x), f"offsets {edges} do not cover {len(x)} {of}"
        )
        require(min(sizes) > 0, f"an empty span of {of}")
        require(max(sizes) == longest, f"the longest span of {of} has {max(sizes)}, said are {longest}")
        spans.append([slice(start, end) for start, end in zip(edges, edges[1:], strict=False)])
    require(len(spans[0]) == len(spans[1]), f"{len(spans[0])} spans of queries, {len(spans[1])} of keys")
    return list(zip(*spans, strict=True))


def unwritten(*shape, like, dtype=None):
    return torch.full(shape, torch.nan, dtype=dtype or like.dtype, device=like.device)


def flash_operands(q, k, v):
    """What FlashAttention asks of its operands, (..., heads, D) each."""
    require(q.dtype in HALF, f"FlashAttention takes fp16 and bf16, not {q.dtype}")
    require(q.dtype == k.dtype == v.dtype, f"operands of {q.dtype}, {k.dtype}, {v.dtype}")
    require(k.shape == v.shape and q.shape[-1] == k.shape[-1], f"operands of {q.shape}, {k.shape}, {v.shape}")
    require(all(x.stride(-1) == 1 for x in (q, k, v)), "the last dimension is not contiguous")
    require(q.shape[-1] % 8 == 0 and q.shape[-1] <= 256, f"a head size of {q.shape[-1]}")
    require(q.shape[-2] % k.shape[-2] == 0, f"{q.shape[-2]} query heads over {k.shape[-2]}")


def used_of(spans, used):
    """The spans, of whose keys only the first `used` count."""
    if used is None:
        return spans
    require(
        used.dtype == torch.int32 and used.shape == (len(spans),) and used.is_contiguous(),
        f"used keys: {used.dtype}, {used.shape}",
    )
    for (_, keys), n in zip(spans, used.tolist(), strict=True):
        require(0 < n <= keys.stop - keys.start, f"{n} keys used of {keys.stop - keys.start}")
    return [
        (queries, slice(keys.start, keys.start + n))
        for (queries, keys), n in zip(spans, used.tolist(), strict=True)
    ]


def flash_varlen(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale, used=None):
    require(q.dim() == k.dim() == 3, f"operands of {q.shape}, {k.shape}")
    flash_operands(q, k, v)
    spans = used_of(spans_of(cu_q, cu_k, max_q, max_k, q, k), used)
    out, lse = unwritten(*q.shape, like=q), unwritten(q.shape[1], len(q), like=q, dtype=torch.float32)
    for queries, keys in spans:  # where max_q is 1, queries of a group become rows: the same numbers
        out[queries], lse[:, queries] = attend(q[queries], k[keys], v[keys], scale, causal)
    return out, lse


def flash_varlen_backward(dout, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, causal, scale, dq, dk, dv):
    flash_operands(q, k, v)
    for x in (dout, out):
        require(
            x.dtype == q.dtype and x.shape == q.shape and x.stride(-1) == 1,
            f"dout or out: {x.dtype}, {x.shape}",
        )
    require(
        lse.dtype == torch.float32 and lse.shape == (q.shape[1], len(q)) and lse.is_contiguous(),
        f"lse: {lse.shape}",
    )
    for queries, keys in spans_of(cu_q, cu_k, max_q, max_k, q, k):
        span = dout[queries], q[queries], k[keys], v[keys], out[queries], lse[:, queries]
        dq[queries], *each = attend_backward(*span, scale, causal)
        # summed over the group in float32, rounded once
        for total, share in zip((dk, dv), each, strict=True):
            total[keys] = share.float().unflatten(1, (k.shape[1], -1)).sum(2).to(k.dtype)


class Operators:
    """PyTorch's, by the names and arguments of their schemas."""

    def __init__(self, ran):
        self.ran = ran

    def rms_norm(self, input, normalized_shape, weight=None, eps=None):
        """One kernel on CUDA, which rounds once."""
        require(list(input.shape[-1:]) == list(normalized_shape), f"a norm over {normalized_shape}")
        require(weight is None or weight.dtype == input.dtype, "a norm of two dtypes is not one kernel")
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        return (x if weight is None else x * weight).to(input.dtype)

    def flash_attention_forward(
        self,
        query,
        key,
        value,
        cum_seq_q,
        cum_seq_k,
        max_q,
        max_k,
        dropout_p,
        is_causal,
        return_debug_mask,
        *,
        scale=None,
        window_size_left=None,
        window_size_right=None,
        seqused_k=None,
        alibi_slopes=None,
        block_table=None,
        num_splits=None,
    ):
        require(
            dropout_p == 0 and not return_debug_mask and scale is not None,
            "dropout, a mask to look at, or no scale",
        )
        if cum_seq_q is None:
            self.ran["flash dense"] += 1
            require(
                query.dim() == key.dim() == 4 and len(query) == len(key),
                f"operands of {query.shape}, {key.shape}",
            )
            require((max_q, max_k) == (query.shape[1], key.shape[1]), f"longest of {max_q}, {max_k}")
            flash_operands(query, key, value)
            out, lse = dense(query, key, value, scale, is_causal, query.shape[1])
        else:
            self.ran["flash varlen" if seqused_k is None else "flash used"] += 1
            spans = cum_seq_q, cum_seq_k, max_q, max_k
            out, lse = flash_varlen(query, key, value, *spans, is_causal, scale, seqused_k)
        state = torch.zeros(2, dtype=torch.uint64)
        return out, lse, state, torch.zeros((), dtype=torch.uint64), query.new_empty(0)

    def flash_attention_backward(
        self,
        grad_out,
        query,
        key,
        value,
        out,
        logsumexp,
        cum_seq_q,
        cum_seq_k,
        max_q,
        max_k,
        dropout_p,
        is_causal,
        rng_state,
        unused,
        *,
        scale=None,
        window_size_left=None,
        window_size_right=None,
    ):
        self.ran["flash varlen backward"] += 1
        require(dropout_p == 0 and scale is not None, "dropout, or no scale")
        require(rng_state.dtype == torch.uint64, f"a random state of {rng_state.dtype}")
        grads = [unwritten(*x.shape, like=x) for x in (query, key, value)]
        flash_varlen_backward(
            grad_out.contiguous(),
            query,
            key,
            value,
            out.contiguous(),
            logsumexp,
            cum_seq_q,
            cum_seq_k,
            max_q,
            max_k,
            is_causal,
            scale,
            *grads,
        )
        return tuple(grads)

    def efficient_attention_forward(
        self,
        query,
        key,
        value,
        bias,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p,
        custom_mask_type,
        compute_log_sumexp=False,
        *,
        scale=None,
        seqlen_k=None,
        window_size=None,
    ):
        require(bias is None and dropout_p == 0 and scale is not None, "a bias, dropout, or no scale")
        require(compute_log_sumexp, "log-sum-exps are not computed unless asked for")
        efficient_operands(query, key, value, custom_mask_type)
        causal = custom_mask_type != 0
        if cu_seqlens_q is None:
            self.ran["efficient dense"] += 1
            out, lse = dense(query, key, value, scale, causal, aligned(query.shape[1]))
            return out, lse, *philox(), query.shape[1], key.shape[1]
        self.ran["efficient varlen" if seqlen_k is None else "efficient used"] += 1
        require(len(query) == 1, f"spans in a batch of {len(query)}")
        spans = spans_of(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, query[0], key[0])
        spans = used_of(spans, seqlen_k)
        out = unwritten(*query.shape, like=query)
        lse = unwritten(len(spans), query.shape[2], aligned(max_seqlen_q), like=query, dtype=torch.float32)
        for i, (queries, keys) in enumerate(spans):
            out[0, queries], part = attend(query[0, queries], key[0, keys], value[0, keys], scale, causal)
            lse[i, :, : part.shape[1]] = part
            lse[i, :, part.shape[1] : aligned(part.shape[1])] = torch.inf
        return out, lse, *philox(), max_seqlen_q, max_seqlen_k

    def efficient_attention_backward(
        self,
        grad_out_,
        query,
        key,
        value,
        bias,
        out,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        logsumexp,
        dropout_p,
        philox_seed,
        philox_offset,
        custom_mask_type,
        bias_requires_grad,
        *,
        scale=None,
        num_splits_key=None,
        window_size=None,
        shared_storage_dqdkdv=False,
    ):
        self.ran["efficient varlen backward"] += 1
        require(
            bias is None and not bias_requires_grad and dropout_p == 0 and scale is not None,
            "a bias, dropout, or no scale",
        )
        efficient_operands(query, key, value, custom_mask_type)
        require(len(query) == 1 and cu_seqlens_q is not None, "only spans here")
        require(
            grad_out_.dtype == out.dtype == query.dtype and grad_out_.shape == out.shape == query.shape,
            "dout or out",
        )
        require(out.is_contiguous(), "out is read as contiguous, unchecked")
        require(
            max_seqlen_q <= query.shape[1] and max_seqlen_k <= key.shape[1], "a span longer than all of them"
        )
        spans = spans_of(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, query[0], key[0])
        require(logsumexp.dtype == torch.float32, f"log-sum-exps of {logsumexp.dtype}")
        require(
            logsumexp.shape == (len(spans), query.shape[2], aligned(max_seqlen_q)),
            f"log-sum-exps of {logsumexp.shape}",
        )
        require(
            logsumexp.stride(2) == 1 and not any(s % 8 for s in logsumexp.stride()[:2]),
            f"strides {logsumexp.stride()}",
        )
        grads = [unwritten(*x.shape, like=x) for x in (query, key, value)]
        for i, (queries, keys) in enumerate(spans):
            size = queries.stop - queries.start
            require(
                logsumexp[i, :, size : aligned(size)].isposinf().all(), "log-sum-exps are read behind a span"
            )
            shares = attend_backward(
                grad_out_[0, queries],
                query[0, queries],
                key[0, keys],
                value[0, keys],
                out[0, queries],
                logsumexp[i, :, :size],
                scale,
                causal=custom_mask_type != 0,
            )
            for total, rows, share in zip(grads, (queries, keys, keys), shares, strict=True):
                total[0, rows] = share
        return *grads, query.new_empty(())


def dense(q_nLHD, k_nSKD, v_nSKD, scale, causal, width):
    """Outputs, and log-sum-exps (n, H, width), infinite behind the last query."""
    out = unwritten(*q_nLHD.shape, like=q_nLHD)
    lse = torch.full((len(q_nLHD), q_nLHD.shape[2], width), torch.inf)
    for i, row in enumerate(zip(q_nLHD, k_nSKD, v_nSKD, strict=True)):
        out[i], lse[i, :, : q_nLHD.shape[1]] = attend(*row, scale, causal)
    return out, lse


def aligned(length):
    return -(-length // 32) * 32


def philox():
    return torch.empty((), dtype=torch.int64), torch.empty((), dtype=torch.int64)


def efficient_operands(q, k, v, mask):
    """What memory-efficient attention asks of its operands, (n, length, heads, D) each; float32 as from
    compute capability 8.0 on."""
    require(
        q.dim() == k.dim() == v.dim() == 4 and len(q) == len(k) == len(v), f"operands of {q.shape}, {k.shape}"
    )
    require(
        q.dtype == k.dtype == v.dtype and q.dtype in (*HALF, torch.float32),
        f"fp32, half and bf16, not {q.dtype}",
    )
    require(
        q.shape[2] == k.shape[2] == v.shape[2],
        f"{q.shape[2]} query heads over {k.shape[2]}: no grouped queries",
    )
    require(
        k.shape[1] == v.shape[1] and q.shape[3] == k.shape[3], f"operands of {q.shape}, {k.shape}, {v.shape}"
    )
    require(mask in (0, 1, 2), f"custom_mask_type {mask}")
    for x in (q, k, v):
        require(
            x.stride(3) == 1 and not any(s % 4 for s in x.stride()[1:3]),
            f"operand of {x.shape} with strides {x.stride()}",
        )
        require(x.data_ptr() % (4 * x.element_size()) == 0, "an operand that begins off 16 bytes")


class Package(SimpleNamespace):
    """flash_attn's interface."""

    def __init__(self, ran):
        super().__init__(ran=ran)

    def _flash_attn_varlen_forward(
        self,
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p,
        softmax_scale,
        causal,
        window_size_left=-1,
        window_size_right=-1,
        softcap=0.0,
        alibi_slopes=None,
        return_softmax=False,
        block_table=None,
        leftpad_k=None,
        seqused_k=None,
        zero_tensors=False,
    ):
        self.ran["flash_attn varlen"] += 1
        require(dropout_p == 0, "dropout")
        out, lse = flash_varlen(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, softmax_scale
        )
        return out, lse, torch.empty(0), torch.zeros(2, dtype=torch.int64)

    def _flash_attn_varlen_backward(
        self,
        dout,
        q,
        k,
        v,
        out,
        softmax_lse,
        dq,
        dk,
        dv,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p,
        softmax_scale,
        causal,
        window_size_left,
        window_size_right,
        softcap,
        alibi_slopes,
        deterministic,
        rng_state=None,
        zero_tensors=False,
    ):
        self.ran["flash_attn varlen backward"] += 1
        require(dropout_p == 0 and softcap == 0 and alibi_slopes is None, "dropout, a soft cap, or slopes")
        for x in (dq, dk, dv):
            x.fill_(torch.nan)
        flash_varlen_backward(
            dout,
            q,
            k,
            v,
            out,
            softmax_lse,
            cu_seqlens_q,
            cu_seqlens_k,
            max_seqlen_q,
            max_seqlen_k,
            causal,
            softmax_scale,
            dq,
            dk,
            dv,
        )
        return torch.empty(0)
