"""Help of a training command: `--help` lists its own fields in groups; `--help-all` adds those of
transformers, TRL and PEFT.

Every field can be set in a recipe (`learning_rate: 1e-6`) or on the command line (`--learning_rate 1e-6`).
"""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar, cast

T = TypeVar("T")
FLAGS = ("-h", "--help", "--help-all", "--help_all")
COMMON = {
    "model_name_or_path": "Checkpoint folder or Hub id.",
    "output_dir": "Folder of the run: checkpoints, metrics, the final model.",
    "learning_rate": "Peak learning rate.",
    "max_steps": "Number of optimizer steps.",
    "per_device_train_batch_size": "Rows per micro-batch on each process.",
    "gradient_accumulation_steps": "Micro-batches per optimizer step.",
    "num_generations": (
        "Completions per question, or memories per history, that are compared with one another."
    ),
    "max_completion_length": "Maximum tokens per completion.",
    "temperature": "Sampling temperature.",
    "dtype": "Data type of the loaded weights: auto, bfloat16 or float32.",
    "use_peft": "Train a LoRA adapter.",
    "resume_from_checkpoint": "true: resume from the newest checkpoint in output_dir.",
    "report_to": "Where metrics are reported: none or wandb.",
    "save_steps": "Steps between checkpoints.",
    "seed": "Random seed of the row order and of sampling.",
}
"""Help texts of the TRL and transformers fields that nearly every recipe sets."""
WIDE = 130  # columns if there is no terminal


def recipe_field(default: T, text: str, choices: Sequence[str] = ()) -> T:
    """Declares a field of a recipe.

    Args:
        default: Its default; of a list, every recipe gets a copy.
        text: Its help.
        choices: The only values that it may have; (): any.
    """
    metadata = {"help": text} | ({"choices": list(choices)} if choices else {})
    if isinstance(default, list):
        return cast(T, field(default_factory=default.copy, metadata=metadata))
    return field(default=default, metadata=metadata)


def show(types: Sequence[type], everything: bool) -> str:
    """Returns the text of `--help`.

    Args:
        types: The dataclasses that contain the fields of a training.
        everything: Also list all fields of transformers, TRL and PEFT.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE
    lines = [
        "A recipe, and fields that override it:",
        "",
        "  --config RECIPE.yaml          path of the recipe, or the name of a shipped one (rft recipes)",
        (
            "  --launch LAYOUT               run under accelerate: one_gpu, ddp, fsdp2, zero2, zero3,"
            " zero3_offload (launch/)"
        ),
        "  --num_processes N             number of processes, with --launch",
        "",
    ]
    known: dict[str, Field[Any]] = {f.name: f for cls in types for f in fields(cls) if f.init}
    shown: set[str] = set()
    for cls in dict.fromkeys(
        base for kind in types for base in kind.__mro__ if base.__module__.startswith("rft.")
    ):
        own = [
            known[name]
            for name in cls.__dict__.get("__annotations__", {})
            if name in known and name not in shown
        ]
        shown |= {f.name for f in own}
        if own:
            lines += [*_group((cls.__doc__ or cls.__name__).split("\n\n")[0], own, width), ""]
    common = [known[name] for name in COMMON if name in known]
    lines += [*_group("Fields of TRL and transformers that most recipes set", common, width), ""]
    rest = [f for f in known.values() if f.name not in shown and f.name not in COMMON]
    if everything:
        return "\n".join([*lines, *_group("All other fields of transformers, TRL and PEFT", rest, width)])
    return "\n".join([*lines, f"{len(rest)} more fields of transformers, TRL and PEFT: --help-all"])


def _group(title: str, of_group: Sequence[Field[Any]], width: int) -> list[str]:
    lines = textwrap.wrap(" ".join(title.split()).rstrip("."), width)
    for f in of_group:
        head = f"  --{f.name:<28}"
        text = COMMON.get(f.name) or " ".join(str(f.metadata.get("help", "")).split())
        default = _default(f)
        text = f"{text} [{default}]" if default else text
        lines += textwrap.wrap(text, width, initial_indent=f"{head} ", subsequent_indent=" " * 33) or [
            head.rstrip()
        ]
    return lines


def _default(f: Field[Any]) -> str:
    """A field's default as a recipe would write it; "" if there is no informative one."""
    value = f.default_factory() if f.default_factory is not MISSING else f.default
    if value in (MISSING, None, "", []):
        return ""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
