"""`rft merge ADAPTER --out DIR`: merges a LoRA adapter and its base into one checkpoint for plain
transformers and vLLM.

The merged checkpoint is read back and checked: vLLM must support its config, its weights must be finite, and
its outputs must match those of the base with the adapter.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft.errors import CheckpointError
from rft.files import occupied

VLLM_ARCHITECTURES = ("Qwen3ForCausalLM", "Qwen2ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM")
"""Dense architectures with full attention that both the prefix tree and vLLM support."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `rft merge`."""
    parser.add_argument("adapter", type=Path, help="output folder of a LoRA training")
    parser.add_argument("--out", type=Path, required=True, help="folder of the merged checkpoint")
    parser.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="also upload it as a private repository (needs `hf auth login`)",
    )


PROMPTS = (
    "What do I like to drink in the morning?",
    "Plan a weekend for me.",
    "I have moved to Lima and gave up tennis for swimming. What should I pack?",
    "Forget what I said about my health. What is a good evening meal?",
)
TOKENS = 16  # of the greedy answer to each prompt
MOST_APART = 0.1
"""Maximum mean difference of log-probs, in nats. Rounding a merged weight to bfloat16 costs about a hundredth
of it."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of a merged checkpoint with its base and adapter.

    Attributes:
        same: Number of greedy tokens that are the same.
        tokens: Number of greedy tokens compared.
        mean: Mean difference of their log-probs, in nats.
        largest: Largest difference of their log-probs, in nats.
    """

    same: int
    tokens: int
    mean: float
    largest: float


def run(args: argparse.Namespace) -> int:
    """Runs `rft merge` and returns its exit code."""
    found = merge(args.adapter, args.out)
    print(
        f"{args.out}: merged, loads in transformers and vLLM; {found.same} of {found.tokens} greedy tokens"
        f" match base and adapter; log-probs differ by {found.mean:.1g} nats on average and by at most"
        f" {found.largest:.1g}"
    )
    if args.push_to_hub:
        from huggingface_hub import HfApi

        hub = HfApi()
        hub.create_repo(args.push_to_hub, private=True, exist_ok=True)
        print(hub.upload_folder(repo_id=args.push_to_hub, folder_path=args.out))
    return 0


def merge(adapter: Path, out: Path) -> Agreement:
    """Merges an adapter into its base and checks the result.

    Args:
        adapter: Output folder of a LoRA training.
        out: New or empty folder of the merged checkpoint.

    Raises:
        CheckpointError: If `adapter` contains no adapter, `out` is not empty, or the outputs of the merged
            checkpoint differ.
    """
    import torch

    from rft.data.tokenizer import load_tokenizer
    from rft.models.loading import load_model

    if not (adapter / "adapter_config.json").exists():
        raise CheckpointError(
            f"{adapter}: no adapter_config.json here; expected the output folder of a LoRA training"
        )
    if occupied(out):
        raise CheckpointError(f"{out}: this folder is not empty; choose a new one")
    model = load_model(str(adapter))
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise CheckpointError(f"{adapter}: {name} contains NaN or infinite values")
    model.save_pretrained(out)
    load_tokenizer(str(adapter)).save_pretrained(out)
    for card in ("README.md", "provenance.json"):
        if (adapter / card).exists():
            (out / card).write_bytes((adapter / card).read_bytes())
    check_loads(out)
    found = compare(load_model(str(adapter), merged=False), load_model(str(out)), load_tokenizer(str(out)))
    if found.mean > MOST_APART:
        raise CheckpointError(
            f"{out}: outputs differ from {adapter}: log-probs differ by {found.mean:.2g} nats on average, and"
            f" {found.same} of {found.tokens} greedy tokens are the same; evaluate the adapter's folder"
            " instead"
        )
    return found


def compare(adapted: Any, merged: Any, tokenizer: Any) -> Agreement:
    """Compares two models on the greedy answers of the first one to a few prompts.

    Args:
        adapted: Base and adapter; writes the answers.
        merged: The merged model.
        tokenizer: The tokenizer of both.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    answers, scores = [], []
    for model in (adapted, merged):
        model.to(device).eval()
        for i, prompt in enumerate(PROMPTS):
            ids_1T = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_dict=False,
                return_tensors="pt",
            ).to(device)
            with torch.inference_mode():
                if model is adapted:
                    answers.append(
                        model.generate(
                            ids_1T,
                            attention_mask=torch.ones_like(ids_1T),
                            max_new_tokens=TOKENS,
                            do_sample=False,
                            pad_token_id=tokenizer.pad_token_id,
                        )
                    )
                whole_1T, start = answers[i], ids_1T.shape[1]
                logps_CV = model(whole_1T).logits[0, start - 1 : -1].float().log_softmax(-1)
            said_C = whole_1T[0, start:]
            scores.append(
                (logps_CV.gather(1, said_C[:, None])[:, 0].cpu(), logps_CV.argmax(-1).eq(said_C).cpu())
            )
        model.to("cpu")
    ours, theirs = scores[: len(PROMPTS)], scores[len(PROMPTS) :]
    apart_N = torch.cat([(one - other).abs() for (one, _), (other, _) in zip(ours, theirs, strict=True)])
    same_N = torch.cat([same for _, same in theirs])
    return Agreement(int(same_N.sum()), len(same_N), apart_N.mean().item(), apart_N.max().item())


def check_loads(folder: Path) -> None:
    """Checks from the files of a checkpoint that plain transformers and vLLM can load it.

    Raises:
        CheckpointError: If they cannot.
    """
    config_file = folder / "config.json"
    if not config_file.exists() or not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder}: no config.json or no safetensors; training did not finish")
    config = json.loads(config_file.read_text())
    if not set(config.get("architectures") or ()) & set(VLLM_ARCHITECTURES):
        raise CheckpointError(
            f"{folder}: architectures {config.get('architectures')}; expected one that vLLM loads:"
            f" {VLLM_ARCHITECTURES}"
        )
    if "auto_map" in config or config.get("_attn_implementation") == "prefix_tree":
        raise CheckpointError(f"{folder}: its config needs code of rft; it must load without it")
    if not (folder / "tokenizer_config.json").exists():
        raise CheckpointError(f"{folder}: no tokenizer here")
