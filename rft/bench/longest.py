"""The longest history whose update fits: lengths from the longest down, those that by estimate need more memory or more time than
there is left out by name, and the first that runs is measured, in one pass.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rft.bench import device
from rft.bench.arithmetic import questions_flops
from rft.bench.batch import questions
from rft.bench.estimate import estimated_bytes
from rft.bench.policy import policy
from rft.bench.setting import Setting
from rft.bench.stopwatch import once
from rft.bench.update import Say, memory
from rft.bench.workload import Update

USABLE = 0.97  # of the free memory: what is freed is not always where it is wanted


def longest(
    setting: Setting, lengths: Sequence[int], rate: float, seconds: float, say: Say = lambda figures: None
) -> dict[str, Any]:
    """Runs the longest of `lengths` that fits.

    Args:
        rate: operations a second that an update is expected to reach.
        seconds: the time there is.

    Returns:
        {"lengths": [{prompt_tokens, tokens, estimated_bytes, expected_seconds, then bytes and seconds, or why not}], and of the
        one that ran "prompt_tokens", "bytes", "estimated_bytes", "seconds"}.
    """
    end = time.monotonic() + seconds
    figures: dict[str, Any] = {"lengths": []}
    for prompt_tokens in sorted(lengths, reverse=True):
        one = replace(setting, prompt_tokens=prompt_tokens)
        device.forget(one.device)
        free, needed = device.free_bytes(one.device), needed_bytes(one)
        entry: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "tokens": tokens(one),
            "estimated_bytes": needed,
            "expected_seconds": questions_flops(one) / rate,
        }
        figures["lengths"].append(entry)
        if needed > USABLE * free:
            entry["why_not"] = f"needs {needed / 2**30:.1f} GiB by estimate, {free / 2**30:.1f} are free"
        elif time.monotonic() + entry["expected_seconds"] > end:
            entry["why_not"] = f"takes about {entry['expected_seconds']:.0f} s, {max(0.0, end - time.monotonic()):.0f} are left"
        else:
            try:
                entry |= measured(one)
            except RuntimeError as error:  # out of memory, most of all
                entry["why_not"] = device.one_line(error)
        if "seconds" in entry:
            return figures | {key: entry.get(key) for key in ("prompt_tokens", "tokens", "bytes", "estimated_bytes", "seconds")}
        say(figures)
    return figures


def tokens(setting: Setting) -> int:
    """Tokens of the batch's tree."""
    return setting.prompt_tokens + setting.questions * setting.question_tokens + setting.rows * setting.completion_tokens


def needed_bytes(setting: Setting) -> int:
    """Peak bytes of an update without its optimizer, by estimate."""
    model = policy(replace(setting, device="meta"))
    return estimated_bytes(setting, model, tokens(setting), setting.rows * setting.completion_tokens)


def measured(setting: Setting) -> dict[str, Any]:
    """Bytes and seconds of one update."""
    work = Update(setting, questions(setting))
    work.warm_up()
    seconds, (beyond, _) = once(setting.device, lambda: device.peak(setting.device, work.shared))
    found = memory(setting, work.model, work.tree(work.all), beyond)
    return {"seconds": seconds, "bytes": found.get("update_bytes"), "flops_per_second": questions_flops(setting) / seconds}
