"""Speed of attention kernels in the two calls that do nearly all of an update's attention: the history
attending itself, and everything after the history attending it.

A backend can replace ours only if it returns log-sum-exps and its backward accepts merged ones. Before a
backend is timed, this is checked against float64, over keys in two halves. FlashAttention 3 and 4 are
included if PyTorch can activate them (`torch.nn.attention.activate_flash_attention_impl`).
"""

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rft.bench.device import one_line
from rft.bench.kernels import MOST, attention, spans_of
from rft.bench.setting import Setting
from rft.bench.stopwatch import LEAST, in_turns, once
from rft.bench.update import Say
from rft.errors import ModelError
from rft.prefix_tree import cudnn
from rft.prefix_tree.kernels import Flash, call, flash_attn

MERGED = 2048  # number of tokens over which merged log-sum-exps are checked
IMPLEMENTATIONS = ("FA3", "FA4")


Make = Callable[[int, int, bool, torch.device], Any]
"""Makes a backend's call of one span: number of queries, number of keys, whether it is causal, device."""


def flash(queries: int, keys: int, causal: bool, on: torch.device) -> Any:
    """FlashAttention, as short spans are attended in training; its twin on a CPU."""
    one = call([(0, queries)], [(0, keys)], causal, on)
    return getattr(one, "flash", one)


def by_cudnn(queries: int, keys: int, causal: bool, on: torch.device) -> Any:
    """cuDNN, as long spans may be attended in training."""
    return cudnn.LongSpan(causal)


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
        call and with long and short nodes in separate calls, "cudnn": the measurement by which training
        chooses it}.
    """
    figures: dict[str, Any] = {"backends": []}
    for name, make in _all(setting.device):
        entry: dict[str, Any] = {"backend": name}
        if not fits():
            entry["refused"] = "no time left"
        else:
            try:
                with _active(name):
                    entry["error"] = merged_error(make, setting)
                    ours = figures["backends"][0]["error"] if figures["backends"] else entry["error"]
                    entry["right"] = entry["error"] <= MOST * ours
                    entry |= _speed(make, setting)
            except Exception as error:
                entry["refused"] = one_line(error)
        figures["backends"].append(entry)
        say(figures)
    if fits():
        figures["own_calls"] = own_calls(setting)
    if fits() and setting.device == "cuda":
        try:
            figures["cudnn"] = _cudnn_choice(setting)
        except RuntimeError as error:
            figures["cudnn"] = {"refused": one_line(error)}
    return figures


def _cudnn_choice(setting: Setting) -> dict[str, Any]:
    """Returns the measurement that decides which spans cuDNN attends in training; least_pairs is absent if
    that is none."""
    m, device = setting.shape, torch.device(setting.device)
    heads = torch.Size((m["num_attention_heads"], m["head_dim"]))
    measured = cudnn.measure(
        device, getattr(torch, setting.dtype), heads, m["num_key_value_heads"], Flash.of_one_span
    )
    least = measured.least_pairs()
    return vars(measured) | ({"least_pairs": least} if least < math.inf else {})


def _all(on: str) -> Iterator[tuple[str, Make]]:
    yield "FlashAttention", flash
    if on == "cuda":
        yield "cuDNN", by_cudnn
        for name in IMPLEMENTATIONS:
            yield name, flash


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
    of_queries, of_keys = (queries, m["num_attention_heads"]), (keys, m["num_key_value_heads"])
    sizes = of_queries, of_keys, of_keys, of_queries
    q, k, v, dout = (torch.randn(*size, m["head_dim"], device=setting.device).to(dtype) for size in sizes)
    return q, k, v, dout


def merged_error(make: Make, setting: Setting) -> float:
    """Returns the largest relative error of outputs and gradients, with keys attended in two halves merged by
    log-sum-exp."""
    tokens = min(MERGED, setting.prompt_tokens)
    q, k, v, dout = _operands(setting, tokens, tokens)
    scale, half = setting.shape["head_dim"] ** -0.5, tokens // 2
    halves = slice(None, half), slice(half, None)
    calls = [make(len(q), len(k[part]), False, q.device) for part in halves]
    parts = [one.forward(q, k[part], v[part], scale) for one, part in zip(calls, halves, strict=True)]
    lse = torch.logaddexp(parts[0][1].float(), parts[1][1].float())
    out = sum(out.float() * (one.float() - lse).exp()[..., None] for out, one in parts).to(q.dtype)  # type: ignore[union-attr]
    shares = [
        one.backward(dout, q, k[part], v[part], out, lse, scale)
        for one, part in zip(calls, halves, strict=True)
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


def _speed(make: Make, setting: Setting) -> dict[str, Any]:
    """Returns operations per second, forward and backward, of the history over itself and of the rest over
    the history."""
    history, m = setting.prompt_tokens, setting.shape
    behind = setting.tokens - history
    scale = m["head_dim"] ** -0.5
    rates: dict[str, dict[str, float]] = {"forward_flops_per_second": {}, "backward_flops_per_second": {}}
    for name, queries, causal in (("history, itself", history, True), ("behind, history", behind, False)):
        pairs = history * (history + 1) // 2 if causal else queries * history
        flops = 4 * pairs * m["num_attention_heads"] * m["head_dim"]
        for direction, seconds in _seconds(make, setting, queries, causal, scale).items():
            work = flops if direction == "forward" else 2.5 * flops  # the backward pass recomputes the scores
            rates[f"{direction}_flops_per_second"][name] = work / seconds
    return rates


def _seconds(make: Make, setting: Setting, queries: int, causal: bool, scale: float) -> dict[str, float]:
    """Returns the median seconds of forward and backward for this number of queries over the history."""
    q, k, v, dout = _operands(setting, queries, setting.prompt_tokens)
    one = make(queries, setting.prompt_tokens, causal, q.device)
    out, lse = one.forward(q, k, v, scale)
    works: dict[str, Callable[[], Any]] = {
        "forward": lambda: one.forward(q, k, v, scale)[0],
        "backward": lambda: one.backward(dout, q, k, v, out, lse, scale)[0],
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
    nodes = spans_of(sizes)
    q, k, v, _ = _operands(setting, setting.tokens, setting.tokens)
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
