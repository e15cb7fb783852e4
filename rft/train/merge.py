"""`rft merge ADAPTER --out DIR`: a LoRA adapter and its base as one checkpoint, which plain transformers and vLLM load.

The merged checkpoint is read back before it is called done: its config must be one that vLLM knows, and its weights must be
finite.
"""

import argparse
import json
from pathlib import Path

from rft.errors import CheckpointError

VLLM_ARCHITECTURES = ("Qwen3ForCausalLM", "Qwen2ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM")
"""Dense architectures with full attention that both the prefix tree and vLLM's model registry know."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", type=Path, help="folder of a LoRA training")
    parser.add_argument("--out", type=Path, required=True, help="folder of the merged checkpoint")
    parser.add_argument(
        "--push-to-hub", metavar="OWNER/NAME", help="upload it too, as a private repository (needs `hf auth login`)"
    )


def run(args: argparse.Namespace) -> int:
    merge(args.adapter, args.out)
    print(f"{args.out}: merged, loads in transformers and vLLM")
    if args.push_to_hub:
        from huggingface_hub import HfApi

        hub = HfApi()
        hub.create_repo(args.push_to_hub, private=True, exist_ok=True)
        print(hub.upload_folder(repo_id=args.push_to_hub, folder_path=args.out))
    return 0


def merge(adapter: Path, out: Path) -> None:
    """Raises CheckpointError where `adapter` holds no adapter, or `out` something already."""
    import torch

    from rft.model import load_model, load_tokenizer

    if not (adapter / "adapter_config.json").exists():
        raise CheckpointError(f"{adapter}: no adapter_config.json here; expected the output folder of a LoRA training")
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out}: this folder is not empty; name a new one")
    model = load_model(str(adapter))
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise CheckpointError(f"{adapter}: {name} holds numbers that are not finite")
    model.save_pretrained(out)
    load_tokenizer(str(adapter)).save_pretrained(out)
    for card in ("README.md", "provenance.json"):
        if (adapter / card).exists():
            (out / card).write_bytes((adapter / card).read_bytes())
    check_loads(out)


def check_loads(folder: Path) -> None:
    """Raises CheckpointError where plain transformers or vLLM could not load a checkpoint, from its files alone."""
    config_file = folder / "config.json"
    if not config_file.exists() or not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder}: no config.json or no safetensors; training has not ended well")
    config = json.loads(config_file.read_text())
    if not set(config.get("architectures") or ()) & set(VLLM_ARCHITECTURES):
        raise CheckpointError(
            f"{folder}: architectures {config.get('architectures')}; vLLM is known to load {VLLM_ARCHITECTURES}"
        )
    if "auto_map" in config or config.get("_attn_implementation") == "prefix_tree":
        raise CheckpointError(f"{folder}: its config asks for code of ours; it must load without")
    if not (folder / "tokenizer_config.json").exists():
        raise CheckpointError(f"{folder}: no tokenizer here")
