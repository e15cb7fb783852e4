"""Sampling a batch's completions: through the tree, and by transformers' generate with as many rows at a time
as fit.

generate is timed on one micro-batch. If there are several, the others are assumed to take as long
(`baseline_extrapolated`). With fewer rows than fit it would look slower than it is, so if there is not enough
time for the full micro-batch it is not timed.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType

from rft.bench import device
from rft.bench.arithmetic import decode_bytes, rollout_ceiling, speedup
from rft.bench.batch import questions
from rft.bench.policy import policy, precision
from rft.bench.setting import Setting
from rft.bench.stopwatch import LEAST, in_turns, once
from rft.bench.update import Say
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import plain_logps
from rft.prefix_tree.sample import sample

PROFILED = 128  # maximum tokens of a rollout whose kernels are counted
GROWTH = 2.0  # a token takes at most about this factor longer with as many rows as fit than with one row


def rollout(
    setting: Setting,
    *,
    tree_only: bool = False,
    repeats: int = LEAST,
    seconds: float = math.inf,
    say: Say = lambda figures: None,
) -> dict[str, Any]:
    """Measures seconds, ratios, errors and peak bytes, by name. The arguments are those of `update`."""
    on, count = setting.device, setting.completion_tokens
    model = policy(setting).eval()
    model.zero_grad()
    rows, lengths = questions(setting)
    prompts = [row[:n] for row, n in zip(rows, lengths, strict=True)]
    tree = Tree(prompts)
    figures: dict[str, Any] = {"token_ratio": tree.token_ratio}

    def shared(length: int = count) -> tuple[list[list[int]], list[list[float]]]:
        with precision(setting):
            return sample(model, prompts, max_new_tokens=length, eos_ids=[])

    def stock(size: int, length: int = count) -> Tensor:
        ids_BP = torch.tensor(prompts[:size], device=on)
        with torch.no_grad(), precision(setting):
            return model.generate(
                ids_BP,
                attention_mask=torch.ones_like(ids_BP),
                max_new_tokens=length,
                do_sample=True,
                top_k=0,
                eos_token_id=None,
                pad_token_id=0,
            )

    end = time.monotonic() + seconds
    shared()  # compiles what a rollout of this length compiles
    brief, _ = once(on, lambda: shared(1))
    whole, (figures["tree_peak_bytes"], (completions, logps)) = once(on, lambda: device.peak(on, shared))
    say(figures)
    with torch.no_grad(), precision(setting):
        exact_1C, _ = plain_logps(model, [prompts[0] + completions[0]], lengths[:1])
    figures["max_logprob_error"] = (torch.tensor(logps[:1]) - exact_1C.cpu()).abs().max().item()
    say(figures)

    works: dict[str, Any] = {"tree": shared, "prefill": lambda: shared(1)}
    size = 0
    if not tree_only:
        stock(1, 2)
        one_token, _ = once(on, lambda: stock(1, 1))
        longer, (one, _) = once(on, lambda: device.peak(on, lambda: stock(1)))
        size = device.fitting(on, one, len(prompts))
        expected = size * one_token + GROWTH * (longer - one_token)
        if repeats * (whole + brief + expected) <= end - time.monotonic():
            figures["stock_micro_batch"] = size
            works["stock"] = lambda: stock(size)
        else:
            figures["skipped"] = [
                f"transformers generate: not enough time for {repeats} repeats of {size} rows at once"
            ]
    times, others = in_turns(on, works, repeats)
    figures |= others | times["tree"].figures("tree", on) | times["prefill"].figures("tree_prefill", on)
    figures["tree_tokens_per_second"] = len(prompts) * count / figures["tree_seconds"]
    if count > 1:
        decode_seconds = figures["tree_seconds"] - figures["tree_prefill_seconds"]
        figures["tree_token_seconds"] = decode_seconds / (count - 1)
        figures["tree_token_bytes"] = decode_bytes(setting)
    if "stock" in works:
        micro_batches = math.ceil(len(prompts) / size)
        figures["stock_peak_bytes"], _ = device.peak(on, lambda: stock(size, 2))
        if micro_batches > 1:
            figures["baseline_extrapolated"] = (
                f"from {size} of {len(prompts)} rows at once, {micro_batches} times as long"
            )
        figures |= times["stock"].figures("stock", on, len(prompts) / size)
        figures["ceiling"] = rollout_ceiling(setting, tree, micro_batches)
        speedup(figures, "speedup", "stock")
    say(figures)
    if count > 4:
        # on CUDA a rollout of few tokens compiles nothing, and takes more kernels
        most = min(count, PROFILED) if on == "cuda" else 4
        try:
            figures["tree_token_operations"] = (
                operations(on, lambda: shared(most)) - operations(on, lambda: shared(most - 3))
            ) / 3
        except RuntimeError as error:  # the profiler is not allowed here
            figures.setdefault("skipped", []).append(f"operations per token: {device.one_line(error)}")
    return figures


def operations(on: str, work: Callable[[], Any]) -> int:
    """Counts the kernels that the work launches on a GPU, or the operators that it calls on a CPU, including
    nested ones."""
    kinds = [torch.profiler.ProfilerActivity.CPU, *[torch.profiler.ProfilerActivity.CUDA] * (on == "cuda")]
    with torch.profiler.profile(activities=kinds) as profile:
        work()
        device.wait(on)
    kind = DeviceType.CUDA if on == "cuda" else DeviceType.CPU
    return sum(event.device_type == kind for event in profile.events() or [])
