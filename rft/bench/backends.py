"""Speed of attention kernels in the two calls that do nearly all of an update's attention: the history
attending itself, and everything after the history attending it.

A backend can replace ours only if it returns log-sum-exps and its backward accepts merged ones. Before a
backend is timed, this is checked against float64, over keys in two halves. FlashAttention 3 and 4 are
included if PyTorch can activate them (`torch.nn.attention.activate_flash_attention_impl`).
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rft.bench.device import one_line
from rft.bench.kernels import MOST, attention
from rft.bench.setting import Setting
from rft.bench.stopwatch import LEAST, in_turns, once
from rft.bench.update import Say
from rft.errors import ModelError
from rft.prefix_tree.kernels import Span, call, flash_attn

MERGED = 2048  # number of tokens over which merged log-sum-exps are checked
IMPLEMENTATIONS = ("FA3", "FA4")


class Ours:
    """Attention calls as in training: operands (T, heads, D), log-sum-exps (N, H)."""

    name = "as in training"

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Any]:
        """Returns the output, the log-sum-exps, and what the backward pass needs."""
        one = call([(0, len(q))], [(0, len(k))], causal, q.device)
        out, lse = one.forward(q, k, v, scale)
        return out, lse, one

    def backward(
        self,
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        saved: Any,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of q, k and v."""
        return saved.backward(dout, q, k, v, out, lse, scale)


class Cudnn:
    """cuDNN's dense attention on one batch entry, with keys repeated per query head if `repeated`, otherwise
    grouped."""

    name = "cuDNN"

    def __init__(self, repeated: bool):
        self.repeated = repeated
        self.name = "cuDNN, keys repeated" if repeated else "cuDNN"

    def _dense(self, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        groups = q.shape[1] // k.shape[1] if self.repeated else 1
        return [
            x.repeat_interleave(n, 1).transpose(0, 1)[None] for x, n in ((q, 1), (k, groups), (v, groups))
        ]

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor, Any]:
        """Returns the output, the log-sum-exps, and what the backward pass needs."""
        out, lse, *saved = torch.ops.aten._scaled_dot_product_cudnn_attention(
            *self._dense(q, k, v), None, True, 0.0, causal, False, scale=scale
        )
        return out[0].transpose(0, 1), lse.reshape(q.shape[1], len(q)).T, (saved, lse.shape)

    def backward(
        self,
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        saved: Any,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of q, k and v."""
        (cu_q, cu_k, max_q, max_k, seed, offset, _), lse_shape = saved
        dense = self._dense(q, k, v)
        dout_, out_ = (x.transpose(0, 1)[None] for x in (dout, out))
        dq, dk, dv = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            dout_,
            *dense,
            out_,
            lse.T.contiguous().reshape(lse_shape),
            seed,
            offset,
            None,
            cu_q,
            cu_k,
            max_q,
            max_k,
            0.0,
            causal,
            scale=scale,
        )
        shares = [x[0].transpose(0, 1) for x in (dq, dk, dv)]
        return shares[0], *(x.unflatten(1, (k.shape[1], -1)).sum(2) for x in shares[1:])


def backends(
    setting: Setting, say: Say = lambda figures: None, fits: Callable[[], bool] = lambda: True
) -> dict[str, Any]:
    """Measures errors and operations per second of every available backend.

    Args:
        setting: the model, the batch and the device.
        say: called with the figures so far, after each backend.
        fits: returns whether there is time left.

    Returns:
        {"backends": [{backend, error, right: whether its error is at most `MOST` times ours,
        forward_flops_per_second: {call:
        rate}, backward...} or {backend, refused}], "own_calls": seconds of each node attending itself, in one
        call and with long and short nodes in separate calls}.
    """
    figures: dict[str, Any] = {"backends": []}
    for name, backend in _all(setting.device):
        entry: dict[str, Any] = {"backend": name}
        if not fits():
            entry["refused"] = "no time left"
        else:
            try:
                with _active(name):
                    entry["error"] = merged_error(backend, setting)
                    ours = figures["backends"][0]["error"] if figures["backends"] else entry["error"]
                    entry["right"] = entry["error"] <= MOST * ours
                    entry |= _speed(backend, setting)
            except Exception as error:
                entry["refused"] = one_line(error)
        figures["backends"].append(entry)
        say(figures)
    if fits():
        figures["own_calls"] = own_calls(setting)
    return figures


def _all(on: str) -> Iterator[tuple[str, Any]]:
    yield Ours.name, Ours()
    if on == "cuda":
        for repeated in (False, True):
            yield Cudnn(repeated).name, Cudnn(repeated)
        for name in IMPLEMENTATIONS:
            yield name, Ours()


@contextmanager
def _active(name: str) -> Iterator[None]:
    """Replaces PyTorch's FlashAttention by this implementation, if `name` is one."""
    if name not in IMPLEMENTATIONS:
        yield
        return
    if flash_attn() is not None:
        raise ModelError(
            "the flash_attn package is installed and takes precedence; remove it to measure this"
            " implementation"
        )
    torch.nn.attention.activate_flash_attention_impl(name)
    try:
        yield
    finally:
        torch.nn.attention.restore_flash_attention_impl()


def _operands(setting: Setting, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns random q, k, v and gradient of the output."""
    torch.manual_seed(0)
    m, dtype = setting.shape, getattr(torch, setting.dtype)
    heads = (
        (queries, m["num_attention_heads"]),
        (keys, m["num_key_value_heads"]),
        (keys, m["num_key_value_heads"]),
    )
    q, k, v = (torch.randn(*size, m["head_dim"], device=setting.device).to(dtype) for size in heads)
    return q, k, v, torch.randn(q.shape, device=setting.device).to(dtype)


def merged_error(backend: Any, setting: Setting) -> float:
    """Returns the largest relative error of outputs and gradients, with keys attended in two halves merged by
    log-sum-exp."""
    tokens = min(MERGED, setting.prompt_tokens)
    q, k, v, dout = _operands(setting, tokens, tokens)
    scale, half = setting.shape["head_dim"] ** -0.5, tokens // 2
    parts = [
        backend.forward(q, k[part], v[part], False, scale) for part in (slice(None, half), slice(half, None))
    ]
    lse = torch.logaddexp(parts[0][1].float(), parts[1][1].float())
    out = sum(out.float() * (one.float() - lse).exp()[..., None] for out, one, _ in parts).to(q.dtype)  # type: ignore[union-attr]
    shares = [
        backend.backward(dout, q, k[part], v[part], out, lse, saved, False, scale)
        for part, (_, _, saved) in zip((slice(None, half), slice(half, None)), parts, strict=True)
    ]
    computed = (
        out,
        shares[0][0].float() + shares[1][0],
        *(torch.cat([a, b]) for a, b in list(zip(*shares, strict=True))[1:]),
    )
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    exact, _ = attention(q, k, v, None, scale)
    truth = exact.detach(), *torch.autograd.grad(exact, (q, k, v), dout.double())
    return max(((x.double() - y).norm() / y.norm()).item() for x, y in zip(computed, truth, strict=True))


def _speed(backend: Any, setting: Setting) -> dict[str, Any]:
    """Returns operations per second, forward and backward, of the history over itself and of the rest over
    the history."""
    history, m = setting.prompt_tokens, setting.shape
    behind = setting.questions * (setting.question_tokens + setting.generations * setting.completion_tokens)
    scale = m["head_dim"] ** -0.5
    rates: dict[str, dict[str, float]] = {"forward_flops_per_second": {}, "backward_flops_per_second": {}}
    for name, queries, causal in (("history, itself", history, True), ("behind, history", behind, False)):
        pairs = history * (history + 1) // 2 if causal else queries * history
        flops = 4 * pairs * m["num_attention_heads"] * m["head_dim"]
        for direction, seconds in _seconds(backend, setting, queries, causal, scale).items():
            work = flops if direction == "forward" else 2.5 * flops  # the backward pass recomputes the scores
            rates[f"{direction}_flops_per_second"][name] = work / seconds
    return rates


def _seconds(backend: Any, setting: Setting, queries: int, causal: bool, scale: float) -> dict[str, float]:
    """Returns the median seconds of forward and backward for this number of queries over the history."""
    q, k, v, dout = _operands(setting, queries, setting.prompt_tokens)
    out, lse, saved = backend.forward(q, k, v, causal, scale)
    works: dict[str, Callable[[], Any]] = {
        "forward": lambda: backend.forward(q, k, v, causal, scale)[0],
        "backward": lambda: backend.backward(dout, q, k, v, out, lse, saved, causal, scale)[0],
    }
    works["backward"]()  # a warm-up; the forward pass above was one too
    times, _ = in_turns(setting.device, works, LEAST)
    return {direction: statistics.median(timed.seconds) for direction, timed in times.items()}


def own_calls(setting: Setting) -> dict[str, float]:
    """Returns the median seconds of each node attending itself: in one call, and with long and short nodes in
    two calls."""
    sizes = [setting.prompt_tokens]
    for _ in range(setting.questions):
        sizes += [setting.question_tokens, *[setting.completion_tokens] * setting.generations]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    nodes: list[Span] = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    q, k, v, _ = _operands(setting, ends[-1], ends[-1])
    scale, on = setting.shape["head_dim"] ** -0.5, q.device

    def run(calls: list[Any]) -> None:
        for one in calls:
            one.forward(q[one.query_rows], k[one.key_rows], v[one.key_rows], scale)

    one_call = [call(nodes, nodes, True, on)]
    apart = [call(group, group, True, on) for group in (nodes[:1], nodes[1:])]
    works = {"one_call_seconds": lambda: run(one_call), "apart_seconds": lambda: run(apart)}
    for work in works.values():
        once(setting.device, work)
    times, _ = in_turns(setting.device, works, LEAST)
    return {name: statistics.median(timed.seconds) for name, timed in times.items()}
