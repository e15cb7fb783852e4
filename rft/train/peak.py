"""How much memory a process needs, by part, before anything is loaded: what fits, and what would.

The parts of an update add up from the model's shape, the longest batch and the layout of processes. A is the width of the
queries,
K that of the keys, F of the MLP, D of the model, T the tokens forwarded at once, N the positions that are scored, V the
vocabulary.
What a layer keeps for its backward pass was counted tensor by tensor in transformers' Qwen3 and `prefix_tree.attention`:

    two norms: input, normalised, output       2 x 3 D    (bf16: the input is kept in float32)
    queries and keys: projected, normalised, rotated    3 A + 3 K
    values, attention's output                 K + A      (the output in float32)
    gate, silu(gate), up, their product        4 F

What is normalised is kept for the gradient of the norm's weight alone: with LoRA it is not. With checkpointing a layer keeps its
input; the rest of one layer, or before that the logits, comes on top, whichever is larger. The numbers are held against measured
peaks in tests.
"""

from dataclasses import dataclass
from typing import Any

from rft.prefix_tree.logprobs import CHUNK_LOGITS

GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """What of a model decides over memory. parameters, trained: numbers of weights; width, trained_width: bytes of one."""

    layers: int
    model: int
    queries: int
    keys: int
    mlp: int
    vocabulary: int
    parameters: int
    trained: int
    width: int
    trained_width: int

    @classmethod
    def of(cls, model: Any) -> "Shape":
        """From a model, which may lie on the meta device, with its adapter where it has one."""
        config = model.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        weights = list(model.parameters())
        trained = [p for p in weights if p.requires_grad]
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads * head,
            config.num_key_value_heads * head,
            config.intermediate_size,
            config.vocab_size,
            sum(p.numel() for p in weights),
            sum(p.numel() for p in trained),
            max((p.element_size() for p in weights if not p.requires_grad), default=weights[0].element_size()),
            trained[0].element_size(),
        )


@dataclass(frozen=True)
class Layout:
    """How a model lies on its processes. zero: DeepSpeed's stage; fsdp: fully sharded by torch; vllm: share of the device."""

    processes: int = 1
    zero: int = 0
    fsdp: bool = False
    offload: bool = False
    vllm: float = 0.0


@dataclass(frozen=True)
class Work:
    """The largest batch of a process. update: tokens forwarded at once; scored: positions with logits; prefix, rows,
    completion: tokens
    of the prompts' tree in a rollout, completions drawn side by side, and their longest length (0 rows: no rollout)."""

    update: int
    scored: int
    checkpointing: bool
    accumulates: bool
    prefix: int = 0
    rows: int = 0
    completion: int = 0


def estimate(shape: Shape, layout: Layout, work: Work) -> dict[str, dict[str, float]]:
    """Bytes of a process by part: {"update": {part: bytes}, "rollout": {part: bytes}}."""
    shared = layout.processes if layout.zero == 3 or layout.fsdp else 1
    frozen = shape.parameters - shape.trained
    weights = (frozen * shape.width + shape.trained * shape.trained_width) / shared
    split = layout.processes if layout.zero or layout.fsdp else 1
    gradients = shape.trained * shape.trained_width / (layout.processes if layout.zero >= 2 or layout.fsdp else 1)
    if layout.processes > 1 and not layout.zero and not layout.fsdp:
        gradients *= 2  # DDP's buckets
    moments = shape.trained * (12 if layout.zero else 2 * shape.trained_width) / split
    if layout.offload:
        moments = 0.0
    if shared > 1:  # the layers that are gathered while they work, and the embedding
        weights += (
            2 * (shape.parameters - shape.vocabulary * shape.model) / shape.layers + shape.vocabulary * shape.model
        ) * shape.width
    kept, one_layer = activations(shape, work)
    logits = scores(shape, work)
    one_layer, logits = (one_layer, 0.0) if one_layer > logits else (0.0, logits)
    kept += one_layer
    if work.accumulates or layout.zero:
        at_backward = gradients
    else:  # gradients grow while activations go; the output head's comes first
        at_backward = min(
            gradients, shape.vocabulary * shape.model * shape.trained_width if shape.trained == shape.parameters else 0
        )
    update = {"weights": weights, "optimizer": moments, "gradients": at_backward, "activations": kept, "logits": logits}
    if at_backward + kept + logits < gradients:
        update = {"weights": weights, "optimizer": moments, "gradients": gradients}
    rollout: dict[str, float] = {}
    if work.rows and not layout.vllm:
        gathered = shape.parameters * shape.width if layout.zero == 3 or layout.fsdp else weights
        suffix = max(32, 1 << (work.completion - 1).bit_length())
        cache = 2 * shape.keys * shape.layers * shape.width * (work.prefix + work.rows * suffix)
        one = work.prefix * shape.width * (2 * shape.model + 2 * shape.queries + 3 * shape.mlp)
        step = work.rows * shape.vocabulary * (shape.width + 4 * 4)
        rollout = {"weights": gathered, "optimizer": moments, "keys and values": cache, "one layer": one, "logits": step}
    return {"update": update, "rollout": rollout}


def activations(shape: Shape, work: Work) -> tuple[float, float]:
    """What the layers keep for the backward pass; and with checkpointing, what one of them needs while it is computed again."""
    b = shape.width
    normalised = b if shape.trained == shape.parameters else 0
    norm = (max(4, b) + b + normalised) * shape.model
    heads = b * (2 * shape.queries + 3 * shape.keys) + normalised * (shape.queries + shape.keys) + 4 * shape.queries
    layer = 2 * norm + heads + b * 4 * shape.mlp
    backward = 3 * b * shape.mlp  # the gradients of gate, up and their product
    ends = norm + b * shape.model
    if work.checkpointing:
        return work.update * (shape.layers * b * shape.model + ends), work.update * (layer + backward)
    return work.update * (shape.layers * layer + ends), 0.0


def scores(shape: Shape, work: Work) -> float:
    """Logits and their softmax, a chunk of positions at a time."""
    positions = min(work.scored, max(1, CHUNK_LOGITS // shape.vocabulary))
    return positions * shape.vocabulary * (shape.width + 4 * 4) + work.scored * shape.model * shape.width


def peak(parts: dict[str, dict[str, float]]) -> float:
    """Bytes of the larger of update and rollout."""
    return max(sum(phase.values()) for phase in parts.values())
