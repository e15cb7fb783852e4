"""The longest history whose update fits. Lengths are tried from the longest down. Those whose estimated
memory or time is too large are skipped by name. The first one that runs is measured, in one pass.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rft.bench import device
from rft.bench.arithmetic import questions_flops
from rft.bench.batch import questions
from rft.bench.policy import estimated_bytes, held_bytes, policy
from rft.bench.setting import Setting
from rft.bench.stopwatch import once
from rft.bench.update import Say
from rft.bench.workload import Update

USABLE = 0.97  # share of the free memory; the rest is lost to fragmentation


def longest(
    setting: Setting, lengths: Sequence[int], rate: float, seconds: float, say: Say = lambda figures: None
) -> dict[str, Any]:
    """Runs the longest of `lengths` that fits.

    Args:
        setting: the model, the batch and the device.
        lengths: history lengths in tokens.
        rate: expected operations per second of an update.
        seconds: available time.
        say: called with the figures so far.

    Returns:
        {"lengths": [{prompt_tokens, tokens, estimated_bytes, expected_seconds, then bytes and seconds, or
        why_not}], and for the length that ran "prompt_tokens", "bytes", "estimated_bytes", "seconds"}.
    """
    end = time.monotonic() + seconds
    figures: dict[str, Any] = {"lengths": []}
    for prompt_tokens in sorted(lengths, reverse=True):
        one = replace(setting, prompt_tokens=prompt_tokens)
        device.forget(one.device)
        free, needed = device.free_bytes(one.device), needed_bytes(one)
        entry: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "tokens": one.tokens,
            "estimated_bytes": needed,
            "expected_seconds": questions_flops(one) / rate,
        }
        figures["lengths"].append(entry)
        if needed > USABLE * free:
            entry["why_not"] = (
                f"needs about {needed / 2**30:.1f} GiB by estimate, {free / 2**30:.1f} GiB are free"
            )
        elif (expected := entry["expected_seconds"]) > (left := end - time.monotonic()):
            entry["why_not"] = f"takes about {expected:.0f} s, {max(0.0, left):.0f} s are left"
        else:
            try:
                entry |= measured(one)
            except RuntimeError as error:  # usually out of memory
                entry["why_not"] = device.one_line(error)
        if "seconds" in entry:
            return figures | {
                key: entry.get(key)
                for key in ("prompt_tokens", "tokens", "bytes", "estimated_bytes", "seconds")
            }
        say(figures)
    return figures


def needed_bytes(setting: Setting) -> int:
    """Returns the estimated peak bytes of an update, without its optimizer."""
    model = policy(replace(setting, device="meta"))
    return estimated_bytes(setting, model, setting.tokens, setting.rows * setting.completion_tokens)


def measured(setting: Setting) -> dict[str, Any]:
    """Measures bytes and seconds of one update."""
    work = Update(setting, questions(setting))
    work.warm_up()
    seconds, (beyond, _) = once(setting.device, lambda: device.peak(setting.device, work.shared))
    return {
        "seconds": seconds,
        "bytes": None if beyond is None else held_bytes(work.model) + beyond,
        "flops_per_second": questions_flops(setting) / seconds,
    }
