"""The parts of `rft bench gpu`, and the process that runs them: one after the other, each by itself, so that an error in one
leaves the others whole. A part that this device has no room or no time for is skipped, with the reason.
"""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rft.bench.setting import Setting

GIB = 2**30
OURS = 2 * GIB  # of a card's memory that a driver and this process' context take at most
PACE = 0.25  # of the rate of a large matrix product that an update is expected to reach, before one was measured


class Skipped(Exception):
    """A part that cannot run here, and why."""


@dataclass(frozen=True)
class Scale:
    """How large the parts are. product: side of the matrices of a product; training: personas, and the recipes' overrides."""

    setting: Setting
    rollout_tokens: int
    lengths: tuple[int, ...]
    long: int
    short: int
    head_sizes: tuple[int, ...]
    product: int
    personas: int
    words: dict[str, list[str]]


PAPER = Scale(
    Setting("qwen3-4b", "cuda", "bfloat16", 32768, 4, 600, 8, 512, checkpointing=True),
    rollout_tokens=128,
    lengths=(262144, 131072, 65536, 32768, 16384),
    long=32768,
    short=2048,
    head_sizes=(64, 96, 128, 256),
    product=8192,
    personas=400,
    words={"sft": ["--logging_steps", "1"], "grpo": ["--max_steps", "80"]},
)
TOY = Scale(
    Setting("toy", "cpu", "bfloat16", 96, 2, 16, 2, 8, checkpointing=True),
    rollout_tokens=6,
    lengths=(192, 96),
    long=256,
    short=64,
    head_sizes=(8, 64),
    product=256,
    personas=12,
    words={
        "sft": ["--logging_steps", "1", "--max_steps", "2", "--per_device_train_batch_size", "6"],
        "grpo": ["--max_steps", "2", "--per_device_train_batch_size", "32", "--max_completion_length", "8"],
    },
)


@dataclass
class Job:
    """What a part is given. done: figures of the parts before, by name; say: is told the figures so far."""

    scale: Scale
    out: Path
    seconds: float
    done: dict[str, dict[str, Any]]
    say: Callable[[dict[str, Any]], None]

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.seconds

    @property
    def on(self) -> str:
        return self.scale.setting.device

    def rate(self) -> float:
        """Operations a second that an update is expected to reach."""
        measured = self.done.get("update", {}).get("tree_flops_per_second")
        product = self.done.get("card", {}).get("product_flops_per_second")
        return measured or (PACE * product if product else math.inf)

    def needs(self, size: float, seconds: float = 0.0) -> None:
        """Raises Skipped if there are not so many bytes, or not so many seconds."""
        from rft.bench import device

        free = device.free_bytes(self.on)
        if size > free:
            raise Skipped(f"needs about {size / GIB:.1f} GiB, {free / GIB:.1f} are free on this card")
        if seconds > self.seconds:
            raise Skipped(f"takes about {seconds:.0f} s, its share of the time is {self.seconds:.0f} s; raise --minutes")


def card(job: Job) -> dict[str, Any]:
    """What the device is, what others hold of it, and how fast it multiplies and copies."""
    import torch

    from rft.bench import device
    from rft.bench.stopwatch import LEAST, in_turns
    from rft.runs.tracking import PACKAGES, versions

    side, on, dtype = job.scale.product, job.on, torch.bfloat16
    figures: dict[str, Any] = {"name": device.name(on), "versions": versions((*PACKAGES, "flash-attn")), "notes": []}
    if on == "cuda":
        free, total = torch.cuda.mem_get_info()
        figures |= {
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "cuda": torch.version.cuda,
            "bytes": total,
        }
        figures["notes"] += others_note(total, total - free - torch.cuda.memory_reserved())
    figures["notes"] += flash_attn_note(figures["versions"]["flash-attn"])
    a, b, c = (torch.randn(side, side, device=on).to(dtype) for _ in range(3))
    works = {"product": lambda: torch.mm(a, b, out=c), "copy": lambda: c.copy_(a)}
    in_turns(on, works, 1)
    times, _ = in_turns(on, works, 2 * LEAST)
    figures["product_flops_per_second"] = 2 * side**3 / min(times["product"].seconds)
    figures["copy_bytes_per_second"] = 2 * a.numel() * a.element_size() / min(times["copy"].seconds)
    return figures


def others_note(total: int, taken: int) -> list[str]:
    """What is said of a card of which so many bytes are taken, but not by this process' tensors."""
    if taken <= OURS:
        return []
    return [
        f"other processes hold {taken / GIB:.1f} of {total / GIB:.1f} GiB of this card: times are not its best, and parts that "
        "need more than is free are skipped"
    ]


def flash_attn_note(installed: str | None) -> list[str]:
    """What is said of a flash-attn that is too old to be called."""
    from packaging.version import parse

    from rft.prefix_tree.kernels import FLASH_ATTN

    if installed is None or parse(installed) >= parse(FLASH_ATTN):
        return []
    return [f"flash-attn {installed}: expected {FLASH_ATTN} or newer; it is left out, PyTorch's own kernels are measured"]


def kernels(job: Job) -> dict[str, Any]:
    from rft.bench.kernels import Sizes
    from rft.bench.kernels import kernels as measure

    shape = job.scale.setting.shape
    sizes = Sizes(job.scale.long, job.scale.short, 8, 2, shape["head_dim"], job.scale.head_sizes, job.scale.setting.rows)
    job.needs(8 * 8 * 8 * max(128 * sizes.long, sizes.short**2))  # scores of 8 heads in float64, some of them
    return measure(job.on, sizes, job.say, lambda: time.monotonic() < job.end)


def backends(job: Job) -> dict[str, Any]:
    from rft.bench.backends import backends as measure

    return measure(job.scale.setting, job.say, lambda: time.monotonic() < job.end)


def update(job: Job) -> dict[str, Any]:
    from rft.bench.arithmetic import questions_flops
    from rft.bench.batch import questions
    from rft.bench.device import forget, one_line
    from rft.bench.exactness import exactness
    from rft.bench.longest import needed_bytes
    from rft.bench.stopwatch import LEAST
    from rft.bench.update import update as measure

    setting = job.scale.setting
    job.needs(needed_bytes(setting), (1 + LEAST) * questions_flops(setting) / job.rate())
    figures = measure(setting, questions(setting), baseline_rows=2, seconds=job.seconds, say=job.say)
    job.say(figures)
    forget(job.on)
    try:
        return figures | exactness(setting, questions)
    except Exception as error:  # the times stand by themselves
        return figures | {"exactness": one_line(error)}


def rollout(job: Job) -> dict[str, Any]:
    from rft.bench.arithmetic import questions_flops, token_bytes, weight_bytes
    from rft.bench.longest import tokens
    from rft.bench.rollout import rollout as measure

    setting = replace(job.scale.setting, completion_tokens=job.scale.rollout_tokens, checkpointing=False)
    size = weight_bytes(setting) + 2 * token_bytes(setting) * tokens(setting)
    job.needs(size, questions_flops(setting) / job.rate())
    return measure(setting, seconds=job.seconds, say=job.say)


def longest(job: Job) -> dict[str, Any]:
    from rft.bench.longest import longest as measure

    setting = replace(job.scale.setting, lora=True)
    figures = measure(setting, job.scale.lengths, job.rate(), job.end - time.monotonic(), job.say)
    if "prompt_tokens" not in figures:
        shortest = figures["lengths"][-1]
        raise Skipped(f"{shortest['prompt_tokens']} tokens: {shortest['why_not']}")
    return figures


def training(job: Job) -> dict[str, Any]:
    from importlib.util import find_spec

    for package in ("trl", "datasets"):
        if find_spec(package) is None:
            raise Skipped(f"{package} is not installed; training needs it")
    from rft.bench.training import training as measure
    from rft.train.runner import set_up_logging

    set_up_logging()
    return measure(job.out / "training", job.on, job.scale.personas, job.scale.words, job.end - time.monotonic(), job.say)


PARTS: dict[str, tuple[float, Callable[[Job], dict[str, Any]]]] = {
    # name: (its weight when the time is shared out, the seconds it takes on an H100 by estimate; what it does)
    "card": (5, card),
    "kernels": (25, kernels),
    "backends": (20, backends),
    "update": (150, update),
    "rollout": (105, rollout),
    "longest": (125, longest),
    "training": (55, training),
}


def work(pipe: Connection, out: Path, rehearse: bool) -> None:
    """Runs the parts that come through the pipe, (name, seconds, done), and answers ("figures", ...) while it does and
    (status, figures, why) at the end. What is printed goes to log.txt in `out`."""
    log = os.open(out / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch  # noqa: F401  what every part waits for, before the time of one is counted

    from rft.bench.device import forget, one_line
    from rft.train.malloc import keep_freed_memory

    keep_freed_memory()
    pipe.send(("ready", {}, ""))
    while True:
        try:
            name, seconds, done = pipe.recv()
        except EOFError:
            return
        print(f"--- {name}", file=sys.stderr, flush=True)
        job = Job(TOY if rehearse else PAPER, out, seconds, done, lambda figures: pipe.send(("figures", figures, "")))
        try:
            pipe.send(("done", PARTS[name][1](job), ""))
        except Skipped as why:
            pipe.send(("skipped", {}, str(why)))
        except Exception as error:
            import traceback

            traceback.print_exc()
            pipe.send(("failed", {}, one_line(error)))
        forget(job.on)
