"""An update of Qwen3-4B at its full shape on a simulated GPU: the project's log-probs, its tiles and its offload, checkpointing
as transformers switches it on, PEFT's adapters, autocast, AdamW. What DeepSpeed and FSDP2 do cannot run there: their shards,
gathered layers and buffers are counted as bytes where hooks see a layer come and go."""

import random
import warnings
from dataclasses import dataclass

import torch
from fake_gpu import FakeGPU
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

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
    """history: its tokens; lora: train adapters alone; masters: float32 weights under autocast; tile, offload: as the recipe's
    fields; batches: micro-batches of an update; layers: of the model."""

    history: int
    lora: bool = False
    masters: bool = False
    tile: int | None = None
    offload: bool = False
    checkpointing: bool = True
    batches: int = 1
    layers: int = 36


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
                    moved[id(x)] = nn.Parameter(here, x.requires_grad) if isinstance(x, nn.Parameter) else here
                tensors[name] = None if x is None else moved[id(x)]


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


def simulate(update: Update, watch: FakeGPU | None = None) -> dict[str, float]:
    """Bytes by moment, `peak` the most."""
    gpu = watch or FakeGPU()
    model = qwen3_4b(update.layers, torch.float32 if update.masters else torch.bfloat16, update.lora)
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
            activations.save_on_cpu = gpu.host_copies
            activations.offload_checkpoints(model)
        found = {"weights": gpu.live}
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        for p in trained:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        optimizer.zero_grad()
        found["optimizer"] = gpu.live - found["weights"]
        gpu.peak = 0
        tree = Tree(*rows_of(update.history), device="cuda:0")
        found["tokens"], found["scored"] = len(tree.tokens_T), len(tree.labels_N)
        for _ in range(update.batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=update.masters or update.lora):
                logps_BC, entropies_BC = tree_logps(model, tree, compute_entropy=True)
            found["forward"] = gpu.peak
            (-torch.exp(logps_BC - logps_BC.detach())).sum().backward()
            del logps_BC, entropies_BC
        found["backward"] = gpu.peak
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        found["peak"] = gpu.peak
    return found
