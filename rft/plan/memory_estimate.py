"""How much memory a process needs, by part, before anything is loaded: what fits, and what would.

What an update holds at once adds up from the model's shape, the longest batch and the layout of processes. It was counted tensor
by tensor in transformers' Qwen3, PEFT's LoRA and `prefix_tree.attention`, and is held against simulations of Qwen3-4B's full
shape and against measured peaks in tests. A is the width of the queries, K that of the keys, F of the MLP, D of the model, T the
tokens forwarded at once, N the positions that are scored, V the vocabulary, L the layers; b bytes of a number that is computed
with, s of one in the residual stream. For its backward pass a layer keeps, a token:

    two norms: input, normalised, output                2 x (4 + s + b) D    the input in float32
    queries and keys: projected, normalised, rotated    (4 + b + b) (A + K)  the first in float32
    values, attention's output                          b (K + A)
    gate, silu(gate), up, their product                 4 b F

What is normalised is kept for the gradient of the norm's weight alone: with LoRA it is not. With checkpointing a layer keeps its
input, s D (offloaded: nothing), and the rest exists for the one layer that is computed again. Of these moments the one counts
that holds most: a layer's forward pass, the scores of a chunk of positions, the backward pass of an MLP, that of an attention,
and the end, when all gradients are there.

Weights that are trained are float32 masters (4 bytes, 4 more for the gradient, 8 for AdamW) and computed with in bfloat16:
autocast keeps a copy of each for the length of a forward pass, and the stream is float32 with them, s = 4. FSDP2 gathers
bfloat16 copies of float32 shards, s = 2. DeepSpeed computes with bfloat16 weights and keeps the masters with its optimizer.
"""

from dataclasses import dataclass
from typing import Any

from rft.prefix_tree.logprobs import CHUNK_LOGITS

GIB = 2**30
FLOAT32 = 4
MASTERS = 3 * FLOAT32
"""Bytes of a master: the weight and AdamW's two moments."""
ZERO_BUCKET = 500_000_000
"""DeepSpeed's default reduce_bucket_size: gradients that are collected before they are reduced."""
ZERO3_LIVE = 1_000_000_000
"""DeepSpeed's default stage3_max_live_parameters: weights that stay gathered at a time."""


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides over memory. parameters, trained: numbers of weights; width: bytes of a number that is computed
    with; frozen_width, trained_width: of a weight as it is kept."""

    layers: int
    model: int
    queries: int
    keys: int
    mlp: int
    vocabulary: int
    parameters: int
    trained: int
    width: int
    frozen_width: int
    trained_width: int

    @classmethod
    def of(cls, model: Any, half: bool) -> "ModelShape":
        """From a model, which may lie on the meta device, with its adapter where it has one. half: whether autocast computes in
        bfloat16 or float16; the weights that are trained are then float32."""
        config = model.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        weights = list(model.parameters())
        trained = [p for p in weights if p.requires_grad]
        frozen_width = max((p.element_size() for p in weights if not p.requires_grad), default=0)
        trained_width = FLOAT32 if half else trained[0].element_size()
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads * head,
            config.num_key_value_heads * head,
            config.intermediate_size,
            config.vocab_size,
            sum(p.numel() for p in weights),
            sum(p.numel() for p in trained),
            2 if half else frozen_width or trained_width,
            frozen_width,
            trained_width,
        )

    @property
    def full(self) -> bool:
        """Whether all weights are trained, not adapters alone."""
        return self.trained == self.parameters

    @property
    def embedding(self) -> int:
        """Weights of the embedding."""
        return self.vocabulary * self.model

    @property
    def a_layer(self) -> float:
        """Weights of a layer."""
        return (self.parameters - self.embedding) / self.layers


@dataclass(frozen=True)
class Parallelism:
    """How a model lies on its processes. zero: DeepSpeed's stage; fsdp: fully sharded by torch; offload: the optimizer in host
    memory; vllm: share of the device."""

    processes: int = 1
    zero: int = 0
    fsdp: bool = False
    offload: bool = False
    vllm: float = 0.0


@dataclass(frozen=True)
class Workload:
    """The largest batch of a process. update: tokens forwarded at once; scored: positions with logits; tile: tokens that an MLP
    takes at once (0: all); offload: checkpoints in host memory; call: tokens of the largest attention call, as histories and
    completions have calls of their own (0: all); prefix, rows, completion: tokens of the prompts' tree in a rollout, completions
    drawn side by side, and their longest length (0 rows: no rollout)."""

    update: int
    scored: int
    checkpointing: bool
    accumulates: bool
    tile: int = 0
    offload: bool = False
    call: int = 0
    prefix: int = 0
    rows: int = 0
    completion: int = 0


Parts = dict[str, float]


def estimate(shape: ModelShape, layout: Parallelism, work: Workload) -> dict[str, Parts]:
    """Bytes of a process by part at the fullest moment of each phase: {"update": {part: bytes}, "rollout": {part: bytes}}."""
    update = max(moments(shape, layout, work), key=lambda parts: sum(parts.values()))
    return {"update": update, "rollout": rollout(shape, layout, work)}


def held(shape: ModelShape, layout: Parallelism) -> tuple[Parts, float]:
    """What lies on the device throughout an update, and the bytes of all gradients behind it."""
    frozen = shape.parameters - shape.trained
    if layout.zero:
        share = layout.processes if layout.zero == 3 else 1
        parts = {"weights": shape.parameters * shape.width / share}
        if layout.zero == 3 and layout.processes > 1:
            parts["gathered weights"] = min(ZERO3_LIVE, shape.parameters) * shape.width
        parts["optimizer"] = 0 if layout.offload else shape.trained * MASTERS / layout.processes
        parts["gradients in a bucket"] = min(ZERO_BUCKET, shape.trained) * shape.width
        kept = 0 if layout.offload else layout.processes
        return parts, shape.trained * shape.width / kept if kept else 0.0
    share = layout.processes if layout.fsdp else 1
    parts = {"weights": (frozen * shape.frozen_width + shape.trained * shape.trained_width) / share}
    if share > 1:  # two layers and the embedding, and a layer's gradients in float32 on their way to their shards
        parts["gathered weights"] = (2 * shape.a_layer + shape.embedding) * shape.width
        if shape.full:
            parts["gathered weights"] += shape.a_layer * FLOAT32
    parts["optimizer"] = 2 * shape.trained * shape.trained_width / share
    gradients = shape.trained * shape.trained_width / share
    return parts, gradients * (2 if layout.processes > 1 and not layout.fsdp else 1)  # DDP: and in its buckets


def autocast_copies(shape: ModelShape, layout: Parallelism) -> float:
    """Bytes of the weights that autocast casts once for a forward pass."""
    cast = shape.trained_width > shape.width and not layout.zero and not layout.fsdp
    return shape.trained * shape.width if cast else 0.0


def stream(shape: ModelShape, layout: Parallelism) -> int:
    """Bytes of a number in the residual stream: what the embedding is kept in, or gathered in."""
    if layout.zero or (layout.fsdp and shape.full):
        return shape.width
    return shape.trained_width if shape.full else shape.frozen_width


def moments(shape: ModelShape, layout: Parallelism, work: Workload) -> list[Parts]:
    """What is held at the fullest moments of an update: forward, scores, backward of the last layer and of the first, the end."""
    base, all_gradients = held(shape, layout)
    a = activations(shape, layout, work)
    sharded = bool(layout.zero or layout.fsdp)
    before = all_gradients if work.accumulates or layout.zero else 0.0  # DeepSpeed's are allocated at the start
    head = 0.0  # the output head's gradient, the first, waits for that of the embedding it is tied to
    if shape.full:
        head = shape.embedding * (shape.width if sharded else shape.trained_width)

    def at(gradients: float, activations: float, **more: float) -> Parts:
        named = {name.replace("_", " "): size for name, size in more.items() if size}
        return {**base, "gradients": gradients, "activations": activations, **named}

    copies = autocast_copies(shape, layout)
    return [
        at(before, a.kept + a.forward, bfloat16_copies=copies),
        at(before, a.kept + a.final, bfloat16_copies=copies, logits=scores(shape, work)),
        at(before + head, a.kept + a.backward),
        at(all_gradients + (head if before or sharded else 0), a.last + a.backward),
        at(all_gradients + head, 0.0),
    ]


@dataclass(frozen=True)
class Activations:
    """Bytes: kept, what all layers keep for their backward pass; last, what is left of it at the last; forward, backward: what
    the layer that is at work holds beside it; final, what the norm behind the layers keeps."""

    kept: float
    last: float
    forward: float
    backward: float
    final: float


def activations(shape: ModelShape, layout: Parallelism, work: Workload) -> Activations:
    """Counted by the token, as above."""
    b, s, D, A, K, F = shape.width, stream(shape, layout), shape.model, shape.queries, shape.keys, shape.mlp
    T = work.update
    tile = work.tile if 0 < work.tile < T else T
    whole = tile == T
    to_float32 = FLOAT32 if s < FLOAT32 else 0  # a norm's copy of its input, where it is not float32 already
    normalised = s if shape.full else 0
    autocasts = s > b  # every matrix has its own copy of what it multiplies: q, k and v; gate and up
    attention_norm = to_float32 + normalised + (3 if autocasts else 1) * b
    mlp_norm = FLOAT32 + normalised + ((2 if autocasts else 1) * b if whole else s)
    heads = (FLOAT32 + (b if shape.full else 0) + b) * (A + K) + b * (K + A)
    gates = 4 * b * F if whole else 0
    layer = T * ((attention_norm + mlp_norm) * D + heads + gates)

    mlp = layer + T * 2 * b * F if whole else layer + tile * 6 * b * F  # and the gradients of gate, up and their product
    # dout; dq, dk and dv in float32, as a call returns them, and inside the kernel: dq in float32, dk and dv for every query head
    call = min(work.call or T, T) * (b * (A + 2 * K) + (FLOAT32 + 2 * b) * A)
    attention = layer - T * (mlp_norm * D + gates) + T * (b * A + FLOAT32 * (A + 2 * K)) + call
    forward = one_forward(shape, layout, T, tile)
    final = T * D * (to_float32 + normalised + b)

    a_stream = T * D * s
    backward = a_stream + max(mlp, attention)  # with the gradient of the stream
    if not work.checkpointing:
        return Activations(shape.layers * layer + a_stream, layer, forward, backward - layer, final)
    if work.offload:  # this layer's input is back; with LoRA the embedding's output is a leaf, and stays
        kept = a_stream * (1 if shape.full else 2)
        return Activations(kept, kept, forward, backward, final)
    return Activations(shape.layers * a_stream, a_stream, forward, backward, final)


def one_forward(shape: ModelShape, layout: Parallelism, tokens: int, tile: int) -> float:
    """Bytes that a layer holds in a forward pass, with the stream in front of it: in its MLP or in its attention."""
    b, s, A, K = shape.width, stream(shape, layout), shape.queries, shape.keys
    # q, k, v; what is merged, in float32, a call's share and its float32 copy; autocast: queries and keys rotated in float32
    attends = b * (A + 2 * K) + (2 * FLOAT32 + b) * A + (FLOAT32 * (A + K) if s > b else 0)
    gates = (3 if shape.full else 4) * b * shape.mlp  # LoRA adds its product to that of the weights
    return tokens * (2 * s + b) * shape.model + max(tile * gates, tokens * attends)


def scores(shape: ModelShape, work: Workload) -> float:
    """Logits and their softmax, a chunk of positions at a time."""
    positions = min(work.scored, max(1, CHUNK_LOGITS // shape.vocabulary))
    return positions * shape.vocabulary * (shape.width + 4 * FLOAT32) + work.scored * shape.model * shape.width


def rollout(shape: ModelShape, layout: Parallelism, work: Workload) -> Parts:
    """What is held while completions are drawn; empty where none are, or vLLM draws them."""
    if not work.rows or layout.vllm:
        return {}
    base, all_gradients = held(shape, layout)
    if layout.zero == 3 and layout.processes > 1:
        base["gathered weights"] = shape.parameters * shape.width
    if layout.zero < 3:
        base.pop("gradients in a bucket", None)  # ZeRO-2 frees it behind a backward pass
    if layout.zero or work.accumulates:
        base["gradients"] = all_gradients
    b = shape.width
    suffix = max(32, 1 << (work.completion - 1).bit_length())
    a_token = 2 * shape.keys * shape.layers * b
    prefill = one_forward(shape, layout, work.prefix, min(work.tile or work.prefix, work.prefix))
    step = work.rows * (suffix * a_token + shape.vocabulary * (b + 4 * FLOAT32))
    parts = {**base, "keys and values": work.prefix * a_token}
    if copies := autocast_copies(shape, layout):
        parts["bfloat16 copies"] = copies
    return {**parts, "one layer": prefill} if prefill > step else {**parts, "suffixes and logits": step}


def host(shape: ModelShape, layout: Parallelism, work: Workload) -> float:
    """Bytes of pinned host memory for offloaded checkpoints: PyTorch pins blocks of a power of two."""
    block = work.update * shape.model * stream(shape, layout)
    return shape.layers * 2 ** (int(block) - 1).bit_length() if work.offload and block else 0.0


def peak(parts: dict[str, Parts]) -> float:
    """Bytes of the larger of update and rollout."""
    return max(sum(phase.values()) for phase in parts.values())
