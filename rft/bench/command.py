"""`rft bench update|rollout|memory`: what sharing the prefix saves, and that it changes nothing, measured in one process on one
batch; `rft bench gpu`: everything about a card, in a given time.

update times the log-probs, entropies and gradients of one GRPO batch (Q questions over one history, G completions each), rollout
sampling the same batch, memory an update on memory trajectories: G memories of a history are each written in T chunks of P
tokens, and answer Q questions.
"""

import argparse
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from rft.bench.setting import MODELS, Setting
from rft.errors import ModelError

WHAT = {
    "update": "one training update",
    "rollout": "sampling its completions",
    "memory": "an update on memory trajectories",
    "gpu": "a card: kernels, updates, rollouts, memory, a small training; in --minutes",
}
SETTING = ("prompt_tokens", "questions", "question_tokens", "generations", "completion_tokens", "model", "checkpointing", "lora")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rft bench`."""
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT", help="; ".join(f"{k}: {v}" for k, v in WHAT.items()))
    for name in ("update", "rollout", "memory"):
        _add_setting(what.add_parser(name, help=WHAT[name]), name)
    gpu = what.add_parser("gpu", help=WHAT["gpu"])
    gpu.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for gpu.json and log.txt")
    gpu.add_argument("--minutes", type=float, default=8.0, help="the time there is, shared out (default: %(default)g)")
    gpu.add_argument("--rehearse", action="store_true", help="the same code on a CPU, at toy sizes")


def _add_setting(parser: argparse.ArgumentParser, what: str) -> None:
    plain = Setting()

    def number(name: str, letter: str, words: str) -> None:
        default = getattr(plain, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, metavar=letter, help=f"{words} (default: {default})"
        )

    number("prompt_tokens", "P", "tokens of a chunk" if what == "memory" else "tokens of the history")
    number("questions", "Q", "questions over it")
    number("question_tokens", "q", "tokens of a question")
    number("generations", "G", "memories" if what == "memory" else "completions per question")
    number("completion_tokens", "C", "tokens of a completion")
    if what == "memory":
        number("chunks", "T", "chunks")
        number("memory_tokens", "M", "tokens of a memory")
    parser.add_argument("--model", choices=sorted(MODELS), default="tiny", help="its shape; weights are random (default: tiny)")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="cpu runs float32, cuda bfloat16 (default: %(default)s)"
    )
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on every path")
    parser.add_argument("--lora", action="store_true", help="train LoRA adapters of rank 16 instead of all weights")
    parser.add_argument("--tree-only", action="store_true", help="no baselines: the time and memory of the tree alone")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="times each path is timed; the median counts (default: %(default)s)"
    )
    if what != "rollout":
        parser.add_argument(
            "--baseline-rows", type=int, default=4, metavar="N",
            help="rows that baselines are timed on, and extrapolated from; 0 for all (default: %(default)s)",
        )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too, as they come")


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table and writes the JSON.

    Raises:
        ModelError: no such device; fewer repeats than a comparison needs.
    """
    if args.what == "gpu":
        from rft.bench.gpu import gpu

        return gpu(args.out, args.minutes, args.rehearse)
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    import torch

    from rft.bench import device
    from rft.bench.stopwatch import LEAST
    from rft.bench.table import show
    from rft.runs.tracking import versions
    from rft.train.malloc import keep_freed_memory

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda, but torch sees no CUDA device: use --device cpu, or a CUDA build of torch")
    if args.repeats < (1 if args.tree_only else LEAST):
        raise ModelError(f"--repeats {args.repeats}: a comparison needs at least {LEAST}; --tree-only takes one or more")
    keep_freed_memory()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("rft.bench").setLevel(logging.INFO)
    setting = _setting(args)
    shape = SETTING + (("chunks", "memory_tokens") if args.what == "memory" else ())
    result: dict[str, Any] = {
        "what": args.what,
        **{key: getattr(setting, key) for key in shape},
        "date": time.strftime("%Y-%m-%d"),
        "device": args.device,
        "device_name": device.name(args.device),
        "dtype": setting.dtype,
        "versions": versions(("torch", "transformers", "trl")),
    }

    def say(figures: dict[str, Any]) -> None:
        result.update(figures)
        if args.json is not None:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    say(_measure(args, setting, say))
    show(result)
    return 0


def _setting(args: argparse.Namespace) -> Setting:
    given = {key: value for key, value in vars(args).items() if key in Setting.__dataclass_fields__}
    return Setting(**given, dtype="float32" if args.device == "cpu" else "bfloat16")


def _measure(args: argparse.Namespace, setting: Setting, say: Any) -> dict[str, Any]:
    if args.what == "rollout":
        from rft.bench.rollout import rollout

        return rollout(setting, tree_only=args.tree_only, repeats=args.repeats, say=say)
    from rft.bench import batch, device
    from rft.bench.exactness import exactness
    from rft.bench.update import update

    rows = batch.questions if args.what == "update" else batch.trajectories
    options = {"tree_only": args.tree_only, "repeats": args.repeats, "baseline_rows": args.baseline_rows}
    figures = update(setting, rows(setting), stock=args.what == "update", say=say, **options)
    if args.tree_only:
        return figures
    device.forget(setting.device)
    return figures | exactness(setting, rows)
