"""Checks of the attention calls in training and sampling against float64: outputs, log-sum-exps and
gradients, in the shapes in which kernels differ (spans of one token, few queries over a long history, strided
operands, every head size).

The yardstick is the error of plain attention in the same dtype: a call is right if its error is at most
`MOST` times as large. A shape or dtype that no kernel of this device supports is reported separately.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rft.bench.device import one_line
from rft.bench.update import Say
from rft.prefix_tree.attention import Plan
from rft.prefix_tree.cache import Suffixes
from rft.prefix_tree.kernels import Span, call, flash
from rft.prefix_tree.layout import Tree

MOST = 4.0
LEAST = 1e-5  # a relative error this small is always accepted: no loss notices it
GRADIENTS = ("dq", "dk", "dv")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)

Tensors = dict[str, Tensor]
Case = Callable[[torch.device, torch.dtype], tuple[Tensors, Tensors, Tensors]]
"""Returns what the checked call computes, the same in float64, and by plain attention in the dtype."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the checked calls.

    Attributes:
        long: tokens in a history.
        short: tokens in a span that attends itself.
        heads: number of query heads.
        keys: number of key heads.
        head_size: channels per head.
        head_sizes: the other head sizes to check.
        rows: number of rows in sampling, and of spans of one token.
    """

    long: int
    short: int
    heads: int
    keys: int
    head_size: int
    head_sizes: tuple[int, ...]
    rows: int


def kernels(
    device: str, sizes: Sizes, say: Say = lambda figures: None, fits: Callable[[], bool] = lambda: True
) -> dict[str, Any]:
    """Measures the error of every case in every dtype.

    Returns:
        {"cases": [{case, dtype, error, yardstick, right} or {case, dtype, refused}], "wrong": number of wrong
        cases, "skipped":
        their names}.
    """
    figures: dict[str, Any] = {"cases": [], "wrong": 0, "skipped": []}
    for dtype in DTYPES:
        for name, case in cases(sizes):
            label = str(dtype).removeprefix("torch.")
            if not fits():
                figures["skipped"].append(f"{name}, {label}: no time left")
                continue
            torch.manual_seed(0)
            entry: dict[str, Any] = {"case": name, "dtype": label}
            try:
                entry |= judged(*case(torch.device(device), dtype))
                figures["wrong"] += not entry["right"]
            except Exception as error:  # a missing or refusing kernel is a result here
                entry["refused"] = one_line(error)
            figures["cases"].append(entry)
            say(figures)
    return figures


def judged(computed: Tensors, exact: Tensors, plain: Tensors) -> dict[str, Any]:
    """Returns the largest relative error over outputs, log-sum-exps and gradients, with the error of plain
    attention."""
    worst: dict[str, Any] = {"error": 0.0, "yardstick": 0.0, "right": True, "of": "out"}
    sizes = {name: truth.norm().item() / truth.numel() ** 0.5 for name, truth in exact.items()}
    gradients = max((size for name, size in sizes.items() if name in GRADIENTS), default=0.0)
    for name, truth in exact.items():
        # the gradient of a query alone may be 0: it has a single key
        size = gradients if name in GRADIENTS else sizes[name]
        error, yardstick = (_error(x[name], truth, size) for x in (computed, plain))
        correct = error <= max(MOST * yardstick, LEAST)
        if (not correct, error) > (not worst["right"], worst["error"]):
            worst = {"error": error, "yardstick": yardstick, "right": correct, "of": name}
    return worst


def _error(x: Tensor, truth: Tensor, size: float) -> float:
    error = (x.double() - truth).norm().item() / truth.numel() ** 0.5 / size
    return error if math.isfinite(error) else math.inf


def attention(
    q_LHD: Tensor, k_SKD: Tensor, v_SKD: Tensor, seen_LS: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Plain attention, with scores and softmax in at least float32.

    Returns:
        Outputs (L, H, D) and log-sum-exps (L, H).
    """
    groups = q_LHD.shape[1] // k_SKD.shape[1]
    k, v = (x.repeat_interleave(groups, 1) for x in (k_SKD, v_SKD))
    scores_HLS = (
        torch.einsum("lhd,shd->hls", q_LHD, k).to(torch.promote_types(q_LHD.dtype, torch.float32)) * scale
    )
    if seen_LS is not None:
        scores_HLS = scores_HLS.masked_fill(~seen_LS, -torch.inf)
    return torch.einsum("hls,shd->lhd", scores_HLS.softmax(-1).to(q_LHD.dtype), v), scores_HLS.logsumexp(-1).T


def cases(sizes: Sizes) -> Iterator[tuple[str, Case]]:
    """Yields the cases with their names."""
    rng = random.Random(0)
    ones = [(i, i + 1) for i in range(sizes.rows)]
    uneven = spans_of(
        [1, 1, 37, *(rng.randrange(1, max(2, sizes.short // 4)) for _ in range(4)), sizes.short]
    )
    last = uneven[-1][1]
    parents, children = [uneven[2], uneven[-1]], [(last, last + 1), (last + 1, last + 40)]

    history = [(0, sizes.long)]
    yield "uneven spans, causal", partial(_call, sizes, uneven, uneven, True)
    yield "spans of one token, causal", partial(_call, sizes, ones, ones, True)
    yield "several parents", partial(_call, sizes, children, parents, False)
    for few in (37, 128):
        queries = [(sizes.long, sizes.long + few)]
        yield f"{few} queries over the history", partial(_call, sizes, queries, history, False)
    yield "strided queries", partial(_call, sizes, uneven, uneven, True, strided=True)
    for size in sizes.head_sizes:
        yield f"head size {size}", partial(_call, replace(sizes, head_size=size), uneven, uneven, True)
    yield "decode, own suffix", partial(_suffix, sizes)
    yield "decode, over the history", partial(_decode, sizes)
    yield "a tree", partial(_tree, sizes)


def spans_of(lengths: list[int]) -> list[Span]:
    """Returns adjacent spans of these lengths."""
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _random(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device).to(dtype)


def _call(
    sizes: Sizes,
    queries: list[Span],
    keys: list[Span],
    causal: bool,
    device: torch.device,
    dtype: torch.dtype,
    strided: bool = False,
) -> tuple[Tensors, Tensors, Tensors]:
    total, size = max(end for _, end in queries + keys), sizes.head_size
    q = _random(device, dtype, total, sizes.heads, 2 * size if strided else size)[..., :size]
    k, v = (_random(device, dtype, total, sizes.keys, size) for _ in range(2))
    dout, scale = _random(device, dtype, total, sizes.heads, size), size**-0.5
    one = call(queries, keys, causal, device)
    operands = q[one.query_rows], k[one.key_rows], v[one.key_rows]
    out, lse = one.forward(*operands, scale)
    shares = one.backward(dout[one.query_rows], *operands, out, lse, scale)
    computed = dict(zip(("out", "lse", "dq", "dk", "dv"), (out, lse, *shares), strict=True))

    def plain(exact: torch.dtype) -> Tensors:
        leaves = [x.detach().to(exact).requires_grad_() for x in (q, k, v)]
        pieces = []
        for (a, b), (c, d) in zip(queries, keys, strict=True):
            mask = torch.ones(b - a, d - c, dtype=torch.bool, device=device).tril() if causal else None
            pieces.append(attention(leaves[0][a:b], leaves[1][c:d], leaves[2][c:d], mask, scale))
        out, lse = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        dq, dk, dv = torch.autograd.grad(out, leaves, dout[one.query_rows].to(exact))
        rows = one.query_rows, one.key_rows, one.key_rows
        shares = [x[where] for x, where in zip((dq, dk, dv), rows, strict=True)]
        return dict(zip(("out", "lse", "dq", "dk", "dv"), (out.detach(), lse.detach(), *shares), strict=True))

    return computed, plain(torch.float64), plain(dtype)


def _suffix(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> tuple[Tensors, Tensors, Tensors]:
    """Checks one query token per row over its suffix, which does not fill its space."""
    length, room = 75, 128
    size, scale, groups = sizes.head_size, sizes.head_size**-0.5, sizes.heads // sizes.keys
    suffixes = Suffixes(sizes.rows, room, {0: _random(device, dtype, 1, sizes.keys, size)})
    q_FKD = _random(device, dtype, sizes.rows * groups, sizes.keys, size)
    kv_RCSD = _random(device, dtype, sizes.rows, room, 2 * sizes.keys, size)
    suffixes.layers[0].copy_(kv_RCSD)
    suffixes.length = length - 1
    suffixes.at_1.fill_(length - 2)
    suffixes.used_R.fill_(length - 1)
    suffixes.grow()
    out, lse = suffixes.attend(0, q_FKD, kv_RCSD[:, length - 1], scale)

    def plain(exact: torch.dtype) -> Tensors:
        per_row = [
            attention(q, kv[:length, : sizes.keys], kv[:length, sizes.keys :], None, scale)
            for q, kv in zip(q_FKD.to(exact).split(groups), kv_RCSD.to(exact), strict=True)
        ]
        return dict(zip(("out", "lse"), map(torch.cat, zip(*per_row, strict=True)), strict=True))

    return {"out": out, "lse": lse}, plain(torch.float64), plain(dtype)


def _decode(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> tuple[Tensors, Tensors, Tensors]:
    """Checks one query token over a long history."""
    size, scale = sizes.head_size, sizes.head_size**-0.5
    q = _random(device, dtype, 1, sizes.heads, 1, size)
    k, v = (_random(device, dtype, 1, sizes.keys, sizes.long, size) for _ in range(2))
    out, lse = flash(q, k, v, scale)

    def plain(exact: torch.dtype) -> Tensors:
        q_1HD, k_SKD, v_SKD = (x[0].transpose(0, 1).to(exact) for x in (q, k, v))
        return dict(zip(("out", "lse"), attention(q_1HD, k_SKD, v_SKD, None, scale), strict=True))

    computed = {"out": out[0].transpose(0, 1), "lse": lse[0].transpose(0, 1)}
    return computed, plain(torch.float64), plain(dtype)


def _tree(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> tuple[Tensors, Tensors, Tensors]:
    """Checks a layer's merged attention over a tree of three levels against the path of each row."""
    rng, size = random.Random(1), sizes.head_size
    root = [rng.randrange(99) for _ in range(sizes.short)]
    asked = [root + [rng.randrange(99) for _ in range(n)] for n in (40, 64, 33)]
    rows = [
        prompt + [rng.randrange(99) for _ in range(rng.randrange(1, 40))]
        for prompt in asked
        for _ in range(3)
    ]
    tree = Tree(rows, [len(prompt) for prompt in asked for _ in range(3)], device=device)
    total = len(tree.tokens_T)
    q = _random(device, dtype, total, sizes.heads, size)
    k, v = (_random(device, dtype, total, sizes.keys, size) for _ in range(2))
    dout, scale = _random(device, dtype, total, sizes.heads, size), size**-0.5
    mask = torch.zeros(total, total, dtype=torch.bool)
    for node in tree.nodes:
        own = node.end - node.start
        mask[node.start : node.end, node.start : node.end] = torch.ones(own, own, dtype=torch.bool).tril()
        mask[node.end : node.stop, node.start : node.end] = True
    mask = mask.to(device)

    def of(attend: Callable[..., Tensor], exact: torch.dtype) -> Tensors:
        leaves = [x.detach().to(exact).requires_grad_() for x in (q, k, v)]
        out = attend(*leaves)
        gradients = torch.autograd.grad(out, leaves, dout.to(exact))
        return dict(zip(("out", "dq", "dk", "dv"), (out.detach(), *gradients), strict=True))

    plan, layer = Plan(tree), nn.Identity()
    computed = of(lambda q, k, v: plan.attend(layer, q, k, v, scale), dtype)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, mask, scale)[0]

    return computed, of(plain, torch.float64), of(plain, dtype)
