"""An update of Qwen3-4B at its full shape on a simulated GPU: the project's log-probs, its tiles and its
offload, checkpointing as transformers switches it on, PEFT's adapters, autocast, AdamW. FSDP2 and DeepSpeed
cannot run there: their shards, gathered weights and buffers are counted as bytes, from their sources and
defaults, where hooks see layers and gradients come and go.
"""

import functools
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from fake_gpu import FakeGPU
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from rft.plan.memory_estimate import Parallelism
from rft.prefix_tree import logprobs, sequence_parallel
from rft.prefix_tree.attention import enable
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps
from rft.train import activations

QWEN3_4B = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 262144,
}
QUESTIONS, QUESTION_TOKENS, GENERATIONS, COMPLETION_TOKENS = 4, 600, 8, 512


@dataclass(frozen=True)
class Update:
    """history: its tokens; lora: train adapters alone, else all weights; tile, offload, keep: as the
    recipe's fields; batches: micro-batches of an update; layers: of the model; ranks: of a sequence-parallel
    group."""

    history: int
    lora: bool = False
    tile: int = 0
    offload: bool = False
    keep: bool = False
    layout: Parallelism = Parallelism()
    checkpointing: bool = True
    batches: int = 1
    layers: int = 36
    ranks: int = 1

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 or DeepSpeed keeps the weights, and computes with bfloat16 copies."""
        return bool(self.layout.fsdp or self.layout.zero)


def qwen3_4b(layers: int = 36, dtype: torch.dtype = torch.bfloat16, lora: bool = False) -> nn.Module:
    """The model without weights, on the meta device."""
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**{**QWEN3_4B, "num_hidden_layers": layers})).to(dtype)
        enable(model)
        if lora:
            model = get_peft_model(model, LoraConfig(r=32, target_modules="all-linear", lora_dropout=0.0))
            for module in model.modules():
                if hasattr(module, "cast_input_dtype_enabled"):
                    module.cast_input_dtype_enabled = False  # as in training, where autocast casts
    return model


def move(model: nn.Module) -> None:
    """Onto the simulated device, tied weights as one."""
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, x in tensors.items():
                if x is not None and id(x) not in moved:
                    here = torch.empty(x.shape, dtype=x.dtype, device="cuda:0")
                    moved[id(x)] = (
                        nn.Parameter(here, x.requires_grad) if isinstance(x, nn.Parameter) else here
                    )
                tensors[name] = None if x is None else moved[id(x)]


@functools.cache
def rows_of(history: int) -> tuple[list[list[int]], list[int]]:
    """Rows of one history and their prompts' lengths."""
    rng = random.Random(0)
    draw = lambda n: [rng.randrange(1000) for _ in range(n)]  # noqa: E731
    shared, rows, prompts = draw(history), [], []
    for _ in range(QUESTIONS):
        prompt = shared + draw(QUESTION_TOKENS)
        for _ in range(GENERATIONS):
            rows.append(prompt + draw(COMPLETION_TOKENS))
            prompts.append(len(prompt))
    return rows, prompts


def shard(model: nn.Module, gpu: FakeGPU, layout: Parallelism) -> None:
    """Counts what a process holds of weights, gradients and optimizer instead of the model's own bfloat16
    weights."""
    ranks, total = layout.processes, sum(p.numel() for p in model.parameters())
    gpu.hold(-gpu.live)
    # bfloat16 weights, float32 masters and moments, gradients; a bucket of 5e8; up to 1e9 gathered
    if layout.zero:
        gpu.hold(2 * total / (ranks if layout.zero == 3 else 1))
        gpu.hold(0 if layout.offload else (12 + 2) * total / ranks)
        gpu.hold(2 * min(5e8, total) + (2 * min(1e9, total) if layout.zero == 3 and ranks > 1 else 0))
    # float32 weights and moments; the embedding, which no layer's group holds, is gathered all the time
    else:
        gpu.hold(12 * total / ranks + 2 * model.lm_head.weight.numel())
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: _reduced(p, gpu, 0 if layout.zero else 4 / ranks))
    if layout.fsdp:
        for layer in model.model.layers:
            size = 2 * 2 * sum(p.numel() for p in layer.parameters())  # and the next, gathered ahead
            layer.register_forward_pre_hook(lambda *_, size=size: gpu.hold(size))
            layer.register_forward_hook(lambda *_, size=size: gpu.hold(-size))
            # and gradients in float32
            layer.register_full_backward_pre_hook(lambda *_, size=size: gpu.hold(2 * size))
            layer.register_full_backward_hook(lambda *_, size=size: gpu.hold(-2 * size))


def _reduced(p: nn.Parameter, gpu: FakeGPU, width: float) -> None:
    """A gradient goes to its shard."""
    gpu.hold(width * p.numel())
    p.grad = None


def simulate(update: Update, watch: FakeGPU | None = None) -> dict[str, float]:
    """Bytes held at the most (`peak`), and what the update was: `tokens`, `scored`."""
    gpu = watch or FakeGPU()
    half = update.lora or update.sharded
    model = qwen3_4b(update.layers, torch.bfloat16 if half else torch.float32, update.lora)
    with gpu:
        move(model)
        model.train()
        if update.checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": False})
            if update.lora:
                model.enable_input_require_grads()
        if update.tile:
            activations.tile_mlps(model, update.tile)
        if update.offload:
            activations.offload_checkpoints(model)
        if update.keep:
            activations.keep_attention(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        if update.sharded:
            shard(model, gpu, update.layout)
        else:
            step(optimizer, trained)  # its states are there from the second update on
        gpu.peak = 0
        tree = Tree(*rows_of(update.history), device="cuda:0")
        for _ in range(update.batches):
            with ranks_of(update, tree) as group:
                with torch.autocast("cpu", torch.bfloat16), gpu.host_of(activations):
                    logps_BC, entropies_BC = tree_logps(model, tree, compute_entropy=True, group=group)
                (-torch.exp(logps_BC - logps_BC.detach())).sum().backward()
            del logps_BC, entropies_BC
        if not update.sharded:
            optimizer.step()
    return {"peak": gpu.peak, "tokens": len(tree.tokens_T), "scored": len(tree.labels_N)}


class Ranks:
    """Stands for torch.distributed on the first of so many ranks, which exchange tensors without data."""

    def __init__(self, ranks: int):
        self.ranks = ranks

    def get_rank(self, group: Any) -> int:
        return 0

    def get_world_size(self, group: Any) -> int:
        return self.ranks

    def all_to_all_single(self, received: torch.Tensor, sent: torch.Tensor, group: Any) -> None: ...
    def all_reduce(self, x: torch.Tensor, group: Any) -> None: ...


@contextmanager
def ranks_of(update: Update, tree: Tree) -> Iterator[Any]:
    """The group over which a tree is spread; None if it is one process."""
    if update.ranks == 1:
        yield None
        return
    ranks = Ranks(update.ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence_parallel, "dist", ranks)
        patch.setattr(logprobs, "Shard", lambda *_: first_shard(update, tree, ranks))
        yield ranks


def first_shard(update: Update, tree: Tree, ranks: Ranks) -> sequence_parallel.Shard:
    """The first rank's part of a tree. What it predicts is found on the host, where tokens have values."""
    shard = sequence_parallel.Shard(Tree(*rows_of(update.history)), ranks)
    for name, x in vars(shard).items():
        if isinstance(x, torch.Tensor):
            setattr(shard, name, torch.empty(x.shape, dtype=x.dtype, device="cuda:0"))
    shard.plan = sequence_parallel.ShardPlan(tree, ranks)
    return shard


def step(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter]) -> None:
    """An optimizer step on gradients of zero."""
    for p in trained:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
