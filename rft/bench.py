"""`rft bench update|rollout|memory`: what sharing the prefix saves, and that it changes nothing, measured in one process on
one batch.

update times the log-probs, entropies and gradients of one GRPO batch (Q questions over one history, G completions
each) three ways: stock TRL (its own function, at its best micro-batch), plain rows (one at a time, logits only for
the completion: the fair baseline, and the one that `speedup` is against) and the tree. rollout times sampling the
same batch with transformers' generate and with the tree. memory times an update on memory trajectories: G memories of a
history are each written in T chunks of P tokens, and answer Q questions.

The ceiling is the ratio of the plain rows' arithmetic to the tree's: matrix products three times (forward and twice
backward) and attention three and a half times (its flash backward computes the scores again). Model weights are
random: only shapes matter here.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import random
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rft.prefix_tree.layout import Tree

MODELS: dict[str, dict[str, Any]] = {
    # as much of its arithmetic is attention at 4k tokens as of the 4B model's at 32k
    "tiny": {
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 2048,
    },
    "qwen3-4b": {
        "num_hidden_layers": 36,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
}

MEANINGS = {
    "speedup": "x faster than plain rows (update) or generate (rollout)",
    "speedup_over_trl": "x faster than stock TRL",
    "ceiling": "x by arithmetic alone",
    "token_ratio": "x fewer tokens",
    "tree_tokens_per_second": "tokens a second",
    "tree_mfu": "of the device's peak",
    "max_logprob_error": "largest error of a log-prob (nats)",
    "max_grad_rel_error": "largest relative error of a gradient",
    "tree_error_to_float32": "mean error of the tree against float32",
    "plain_error_to_float32": "mean error of plain rows against float32",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rft bench`."""
    parser.add_argument(
        "what",
        choices=["update", "rollout", "memory"],
        help="what to measure: one training update, sampling its completions, or an update on memory trajectories",
    )
    parser.add_argument(
        "--prompt-tokens", type=int, default=4096, metavar="P", help="tokens of the history (default: %(default)s)"
    )
    parser.add_argument("--questions", type=int, default=4, metavar="Q", help="questions over it (default: %(default)s)")
    parser.add_argument(
        "--question-tokens", type=int, default=64, metavar="q", help="tokens of a question (default: %(default)s)"
    )
    parser.add_argument("--generations", type=int, default=8, metavar="G", help="completions per question (default: %(default)s)")
    parser.add_argument(
        "--completion-tokens", type=int, default=128, metavar="C", help="tokens of a completion (default: %(default)s)"
    )
    parser.add_argument(
        "--model", choices=sorted(MODELS), default="tiny", help="its shape; weights are random (default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="cpu runs float32, cuda bfloat16 (default: %(default)s)"
    )
    parser.add_argument("--chunks", type=int, default=4, metavar="T", help="memory: chunks of P tokens (default: %(default)s)")
    parser.add_argument(
        "--memory-tokens", type=int, default=256, metavar="M", help="memory: tokens of a memory (default: %(default)s)"
    )
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on every path")
    parser.add_argument("--lora", action="store_true", help="train LoRA adapters of rank 16 instead of all weights")
    parser.add_argument(
        "--tree-only", action="store_true", help="no baselines: how long, and how much memory, the tree alone takes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table and writes the JSON; exit code 0."""
    import torch

    from rft.errors import ModelError
    from rft.train.start import keep_freed_memory

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda, but torch sees no CUDA device: use --device cpu, or a CUDA build of torch")
    keep_freed_memory()
    result = {"what": args.what, **_setting(args), **(rollout(args) if args.what == "rollout" else update(args))}
    _show(result)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def update(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of `rft bench update` and `rft bench memory`: seconds, ratios, errors and peak bytes by name."""
    import torch

    from rft.prefix_tree.layout import Tree
    from rft.prefix_tree.logprobs import plain_logps, tree_logps

    model = _model(args)
    rows, prompts = _batch(args) if args.what == "update" else _trajectories(args)
    width = max(len(row) - prompt for row, prompt in zip(rows, prompts, strict=True))
    advantages_B = torch.randn(len(rows), generator=torch.Generator().manual_seed(0)).to(args.device)

    def backward(logps_BC: Tensor, first: int = 0) -> Tensor:
        """The gradient of GRPO's loss on-policy, summed over tokens."""
        ratios_BC = torch.exp(logps_BC - logps_BC.detach())
        (-ratios_BC * advantages_B[first : first + len(logps_BC), None]).sum().backward()
        return logps_BC.detach()

    def shared() -> Tensor:
        return backward(tree_logps(model, Tree(rows, prompts, device=args.device), compute_entropy=True)[0])

    def alone(count: int = len(rows)) -> Tensor:
        row = [(rows[i : i + 1], prompts[i : i + 1]) for i in range(count)]
        each = [backward(plain_logps(model, *one, compute_entropy=True)[0], i) for i, one in enumerate(row)]
        return torch.cat([torch.nn.functional.pad(logps_1C, (0, width - logps_1C.shape[1])) for logps_1C in each])

    tree = Tree(rows, prompts)
    figures: dict[str, Any] = {"token_ratio": tree.token_ratio, "ceiling": _ceiling(args, tree, rows)}
    shared()  # once for nothing: allocators and caches fill, gradients exist
    figures["tree_peak_bytes"], _ = _peak(args.device, shared)
    first, _ = _seconds(args.device, shared)
    if args.tree_only:
        return {**figures, **_rates(args, tree, first)}

    alone(1)
    figures["plain_peak_bytes"], _ = _peak(args.device, lambda: alone(1))
    model.zero_grad()
    plain_seconds, plain_logps_BC = _seconds(args.device, alone)
    plain_grads = _gradients(model)
    model.zero_grad()
    second, tree_logps_BC = _seconds(args.device, shared)
    figures["max_logprob_error"] = (tree_logps_BC - plain_logps_BC).abs().max().item()
    figures["max_grad_rel_error"] = max(
        ((grad - plain_grads[name]).norm() / plain_grads[name].norm().clamp_min(1e-30)).item()  # LoRA begins with gradients of 0
        for name, grad in _gradients(model).items()
    )
    figures |= {"plain_seconds": plain_seconds, **_rates(args, tree, (first + second) / 2)}
    figures["speedup"] = plain_seconds / figures["tree_seconds"]
    if args.what == "memory":
        return figures
    figures |= _trl(args, model, rows, backward)
    figures["speedup_over_trl"] = figures["trl_seconds"] / figures["tree_seconds"]
    if args.device == "cuda":
        figures |= _errors_to_float32(model, rows[:2], prompts[:2], tree_logps_BC[:2], plain_logps_BC[:2])
    return figures


def rollout(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of `rft bench rollout`: seconds, ratios, errors and peak bytes by name."""
    import torch

    from rft.prefix_tree.layout import Tree
    from rft.prefix_tree.logprobs import plain_logps
    from rft.prefix_tree.sample import sample

    model = _model(args).eval()
    rows, lengths = _batch(args)
    prompts = [row[:n] for row, n in zip(rows, lengths, strict=True)]
    ids_BP = torch.tensor(prompts, device=args.device)

    def shared(count: int = args.completion_tokens) -> tuple[list[list[int]], list[list[float]]]:
        return sample(model, prompts, max_new_tokens=count, eos_ids=[])

    def stock(batch: slice = slice(None), count: int = args.completion_tokens) -> Tensor:
        ids = ids_BP[batch]
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=True,
            top_k=0,
            eos_token_id=None,
            pad_token_id=0,
        )

    figures: dict[str, Any] = {"token_ratio": Tree(prompts).token_ratio}
    shared(2)
    figures["tree_peak_bytes"], (seconds, (completions, logps)) = _peak(args.device, lambda: _seconds(args.device, shared))
    figures["tree_seconds"] = seconds
    figures["tree_tokens_per_second"] = sum(map(len, completions)) / seconds
    if args.tree_only:
        return figures
    with torch.no_grad():
        whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        exact_BC, _ = plain_logps(model, whole, lengths)
    figures["max_logprob_error"] = (torch.tensor(logps) - exact_BC.cpu()).abs().max().item()
    stock(slice(0, 1), 2)
    figures["stock_peak_bytes"], (figures["stock_seconds"], _) = _peak(args.device, lambda: _seconds(args.device, stock))
    figures["speedup"] = figures["stock_seconds"] / seconds
    return figures


def _trl(args: argparse.Namespace, model: Any, rows: list[list[int]], backward: Callable[..., Tensor]) -> dict[str, Any]:
    """Stock TRL: its own function on padded rows, at the micro-batch that is fastest on four rows; and its peak with
    all rows in one micro-batch, or with as many of them as fit in two thirds of the free memory."""
    import torch
    from accelerate import Accelerator
    from trl import GRPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    bare = model.get_base_model() if args.lora else model
    bare.set_attn_implementation("sdpa")
    add_fused_lm_head(bare, outputs=("log_probs", "entropy"))
    trainer: Any = SimpleNamespace(accelerator=Accelerator(cpu=args.device == "cpu"))
    ids_BL = torch.tensor(rows, device=args.device)

    def stock(micro_batch: int, count: int = len(rows)) -> None:
        for first in range(0, count, micro_batch):
            ids = ids_BL[first : first + micro_batch]
            logps, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(
                trainer, model, ids, torch.ones_like(ids), args.completion_tokens, compute_entropy=True
            )
            backward(logps, first)

    stock(1, 1)
    one, _ = _peak(args.device, lambda: stock(1, 1))
    most = len(rows) if one is None else min(len(rows), max(1, int(_free_bytes(args.device) * 2 / 3 / max(1, one))))
    peak, _ = _peak(args.device, lambda: stock(most, most))
    few = [n for n in (1, 2, 4) if n <= min(most, len(rows))]
    best = min(few, key=lambda n: _seconds(args.device, lambda: stock(n, few[-1]))[0])
    seconds, _ = _seconds(args.device, lambda: stock(best))
    return {"trl_seconds": seconds, "trl_micro_batch": best, "trl_peak_bytes": peak, "trl_peak_rows": most}


def _errors_to_float32(
    model: Any, rows: list[list[int]], prompts: list[int], tree_BC: Tensor, plain_BC: Tensor
) -> dict[str, float]:
    """Mean errors of both paths' bfloat16 log-probs against the same weights in float32. The model is float32
    afterwards."""
    import torch

    from rft.prefix_tree.logprobs import plain_logps

    model.zero_grad()
    with torch.no_grad():
        exact_BC, _ = plain_logps(model.float(), rows, prompts)
    return {
        f"{name}_error_to_float32": (x - exact_BC).abs().mean().item() for name, x in (("tree", tree_BC), ("plain", plain_BC))
    }


def _model(args: argparse.Namespace) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from rft.prefix_tree.attention import enable

    torch.manual_seed(0)
    longest = args.prompt_tokens + args.question_tokens + args.completion_tokens + 2 * args.memory_tokens
    config = Qwen3Config(**MODELS[args.model], tie_word_embeddings=True, max_position_embeddings=max(40960, longest))
    with torch.device(args.device):
        model: Any = Qwen3ForCausalLM(config)
    model = model.to(torch.float32 if args.device == "cpu" else torch.bfloat16)
    enable(model)
    if args.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if args.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
        model.enable_input_require_grads()
    return model.train()


def _tokens(args: argparse.Namespace) -> Callable[[int], list[int]]:
    """Draws so many random tokens."""
    rng, vocab = random.Random(0), MODELS[args.model]["vocab_size"]
    return lambda count: [rng.randrange(vocab) for _ in range(count)]


def _batch(args: argparse.Namespace) -> tuple[list[list[int]], list[int]]:
    """Rows of random tokens, and their prompts' lengths."""
    tokens = _tokens(args)
    history, rows = tokens(args.prompt_tokens), []
    for _ in range(args.questions):
        prompt = history + tokens(args.question_tokens)
        rows += [prompt + tokens(args.completion_tokens) for _ in range(args.generations)]
    return rows, [args.prompt_tokens + args.question_tokens] * len(rows)


def _trajectories(args: argparse.Namespace) -> tuple[list[list[int]], list[int]]:
    """Rows of G memory trajectories over one history, and their prompts' lengths: each chunk with the memory before it, and the
    memory rewritten; then the last memory with each question, and an answer."""
    tokens = _tokens(args)
    rows: list[list[int]] = []
    prompts: list[int] = []
    memories: list[list[int]] = [[] for _ in range(args.generations)]
    for chunk in [tokens(args.prompt_tokens) for _ in range(args.chunks)]:
        written = [tokens(args.memory_tokens) for _ in memories]
        rows += [chunk + before + after for before, after in zip(memories, written, strict=True)]
        prompts += [len(chunk + before) for before in memories]
        memories = written
    for question in [tokens(args.question_tokens) for _ in range(args.questions)]:
        rows += [memory + question + tokens(args.completion_tokens) for memory in memories]
        prompts += [args.memory_tokens + args.question_tokens] * len(memories)
    return rows, prompts


def _flops(args: argparse.Namespace, tokens: int, pairs: int, labels: int) -> float:
    """Floating-point operations of forward and backward over so many tokens, attended (query, key) pairs and scored
    positions."""
    m = MODELS[args.model]
    heads = m["num_attention_heads"] * m["head_dim"]
    weights = m["hidden_size"] * (2 * heads + 2 * m["num_key_value_heads"] * m["head_dim"] + 3 * m["intermediate_size"])
    products = 2 * (m["num_hidden_layers"] * weights * tokens + m["hidden_size"] * m["vocab_size"] * labels)
    return 3 * products + 3.5 * 4 * m["num_hidden_layers"] * heads * pairs


def _tree_flops(args: argparse.Namespace, tree: Tree) -> float:
    own = [node.end - node.start for node in tree.nodes]
    pairs = sum(n * (n + 1) // 2 + n * (node.stop - node.end) for n, node in zip(own, tree.nodes, strict=True))
    return _flops(args, sum(own), pairs, len(tree.labels_N))


def _ceiling(args: argparse.Namespace, tree: Tree, rows: list[list[int]]) -> float:
    pairs = sum(len(row) * (len(row) + 1) // 2 for row in rows)
    return _flops(args, tree.row_tokens, pairs, len(tree.labels_N)) / _tree_flops(args, tree)


def _rates(args: argparse.Namespace, tree: Tree, seconds: float) -> dict[str, float]:
    from trl.trainer.utils import get_peak_flops

    rate = _tree_flops(args, tree) / seconds
    peak = get_peak_flops(_device_name(args.device), "bfloat16") if args.device == "cuda" else None
    return {"tree_seconds": seconds, "tree_flops_per_second": rate, **({} if peak is None else {"tree_mfu": rate / peak})}


def _gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.float().clone() for name, p in model.named_parameters() if p.grad is not None}


def _seconds(device: str, work: Callable[[], Any]) -> tuple[float, Any]:
    """How long the work takes, and its result."""
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    result = work()
    wait()
    return time.perf_counter() - start, result


def _peak(device: str, work: Callable[[], Any]) -> tuple[int | None, Any]:
    """The most bytes that the work held beyond what was held before, and its result. On CPU it is the resident memory
    of the process, as Linux counts it; None elsewhere."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = work()
        return torch.cuda.max_memory_allocated() - before, result
    if platform.system() != "Linux":
        return None, work()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = _resident("VmRSS")
    result = work()
    return _resident("VmHWM") - before, result


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _free_bytes(device: str) -> int:
    import torch

    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _setting(args: argparse.Namespace) -> dict[str, Any]:
    shape: tuple[str, ...] = (
        "prompt_tokens",
        "questions",
        "question_tokens",
        "generations",
        "completion_tokens",
        "model",
        "checkpointing",
        "lora",
    )
    if args.what == "memory":
        shape += ("chunks", "memory_tokens")
    return {
        **{key: getattr(args, key) for key in shape},
        "date": time.strftime("%Y-%m-%d"),
        "device": _device_name(args.device),
        "dtype": "float32" if args.device == "cpu" else "bfloat16",
        "versions": {package: version(package) for package in ("torch", "transformers", "trl")},
    }


def _show(result: dict[str, Any]) -> None:
    """The figures as a table: one line a path, then what follows from them."""
    from rich.console import Console
    from rich.table import Table

    title = "{what}: P={prompt_tokens} Q={questions} q={question_tokens} G={generations} C={completion_tokens}".format(**result)
    if result["what"] == "memory":
        title += " T={chunks} M={memory_tokens}".format(**result)
    table = Table("path", "seconds", "peak memory", "", title=f"{title}, {result['model']} on {result['device']}")
    paths = {"trl": "stock TRL", "plain": "plain rows", "stock": "transformers generate", "tree": "prefix tree"}
    for key, name in paths.items():
        if f"{key}_seconds" in result:
            peak, note = result.get(f"{key}_peak_bytes"), ""
            if key == "trl":
                note = f"micro-batch {result['trl_micro_batch']}; peak of {result['trl_peak_rows']} rows at once"
            elif key == "plain":
                note = "one row at a time"
            table.add_row(name, f"{result[f'{key}_seconds']:.2f}", "-" if peak is None else f"{peak / 2**20:,.0f} MiB", note)
    console = Console()
    console.print(table)
    for key, meaning in MEANINGS.items():
        if key in result:
            console.print(f"  {result[key]:>10.4g}  {meaning}", highlight=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="rft bench", description=__doc__)
    add_arguments(parser)
    raise SystemExit(run(parser.parse_args()))
