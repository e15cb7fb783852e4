"""Estimate of the memory that a process needs, by part, before anything is loaded, and of changes that would
reduce it.

The memory of an update follows from the model's shape, the longest batch and the layout of processes. It was
counted tensor by tensor in transformers' Qwen3, PEFT's LoRA and `prefix_tree.attention`. Tests compare it
with simulations of Qwen3-4B's full shape and with measured peaks. A is the width of the queries, K that of
the keys, F of the MLP, D of the model, T the tokens forwarded at once, N the number of scored positions, V
the vocabulary, L the layers; b is the bytes per number in computation, s the bytes per number in the residual
stream. For its backward pass a layer keeps, per token:

    two norms: input, normalised, output                2 x (4 + s + b) D    the input in float32
    queries and keys: projected, normalised, rotated    (4 + b + b) (A + K)  the first in float32
    values, attention's output                          b (K + A)
    gate, silu(gate), up, their product                 4 b F

Under sequence parallelism a process has T / N tokens outside attention, and all tokens of 1 / N of the heads
inside: as many numbers. Attention's output is kept on both sides of the second all-to-all, b A more per
token, and while an all-to-all runs its tensors exist twice. In a rollout it holds the keys and values of its
heads, one key head at least, and prefills T / N tokens.

The normalised values are kept only for the gradient of the norm's weight, so not with LoRA. With
checkpointing a layer keeps only its input, s D (with offloading: nothing), and its attention if that is kept,
b A; the rest exists for the one layer that is recomputed. The estimate is the largest of these moments: a
layer's forward pass, the scores of a chunk of positions, the backward pass of an MLP, that of an attention,
and the end, when all gradients exist.

Trained weights are float32 masters (4 bytes, 4 more for the gradient, 8 for AdamW), and computation is in
bfloat16: autocast keeps a copy of each weight during a forward pass, and the stream is then float32, s = 4.
FSDP2 gathers bfloat16 copies of float32 shards, s = 2. DeepSpeed computes with bfloat16 weights and keeps the
masters with its optimizer.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from rft.prefix_tree.logprobs import CHUNK_LOGITS

GIB = 2**30
FLOAT32 = 4
MASTERS = 3 * FLOAT32
"""Bytes per master weight: the weight and AdamW's two moments."""
KEPT_KEYS = 4096
"""Least keys of a span whose attention `keep_attention` keeps: 99 % of attention's arithmetic at 32k."""
ZERO_BUCKET = 500_000_000
"""DeepSpeed's default reduce_bucket_size: number of gradients collected before they are reduced."""
ZERO3_LIVE = 1_000_000_000
"""DeepSpeed's default stage3_max_live_parameters: number of weights that stay gathered at a time."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model that determine its memory.

    Attributes:
        layers: number of layers.
        model: width of the residual stream.
        queries: width of all query heads together.
        keys: width of all key heads together.
        head: width of one head.
        mlp: width of the MLP.
        vocabulary: number of tokens in the vocabulary.
        parameters: number of weights.
        trained: number of trained weights.
        width: bytes per number in computation.
        frozen_width: bytes per stored frozen weight.
        trained_width: bytes per stored trained weight.
    """

    layers: int
    model: int
    queries: int
    keys: int
    head: int
    mlp: int
    vocabulary: int
    parameters: int
    trained: int
    width: int
    frozen_width: int
    trained_width: int

    @classmethod
    def of(cls, model: Any, half: bool) -> "ModelShape":
        """Reads the shape from a model, with its adapter if it has one.

        Args:
            model: the model, on any device including meta.
            half: whether autocast computes in bfloat16 or float16. The trained weights are then float32.
        """
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
            head,
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
        """Whether all weights are trained, not only adapters."""
        return self.trained == self.parameters

    @property
    def embedding(self) -> int:
        """Number of weights of the embedding."""
        return self.vocabulary * self.model

    @property
    def a_layer(self) -> float:
        """Number of weights per layer."""
        return (self.parameters - self.embedding) / self.layers


@dataclass(frozen=True)
class Parallelism:
    """How a model is distributed over processes.

    Attributes:
        processes: number of processes.
        zero: DeepSpeed's ZeRO stage (0: no DeepSpeed).
        fsdp: whether torch shards the model fully.
        offload: whether the optimizer is in host memory.
        vllm: share of the device that vLLM takes.
    """

    processes: int = 1
    zero: int = 0
    fsdp: bool = False
    offload: bool = False
    vllm: float = 0.0


@dataclass(frozen=True)
class Workload:
    """The largest batch of a process.

    Attributes:
        update: tokens forwarded at once.
        scored: positions with logits.
        checkpointing: whether layers keep only their input for the backward pass.
        accumulates: whether gradients accumulate over several backward passes.
        tile: tokens that an MLP processes at once (0: all).
        offload: whether checkpoints are in host memory.
        keep: whether checkpointed layers keep their attention.
        call: tokens of the largest attention call (0: all). Histories and completions have separate calls.
        prefix: tokens in the tree of the prompts of a rollout.
        rows: completions sampled in parallel (0: no rollout).
        completion: maximum number of tokens per completion.
        ranks: processes over which the tokens of an update, and a rollout, are spread (sequence parallelism).
            Tokens and positions of the update are those of one of them, the rollout is that of all.
    """

    update: int
    scored: int
    checkpointing: bool
    accumulates: bool
    tile: int = 0
    offload: bool = False
    keep: bool = False
    call: int = 0
    prefix: int = 0
    rows: int = 0
    completion: int = 0
    ranks: int = 1

    def shared_out(self, ranks: int) -> "Workload":
        """Returns this batch spread over several processes."""
        update, scored, call = (-(-n // ranks) for n in (self.update, self.scored, self.call))
        return replace(self, update=update, scored=scored, call=call, ranks=ranks)


Parts = dict[str, float]


def estimate(shape: ModelShape, layout: Parallelism, work: Workload) -> dict[str, Parts]:
    """Estimates the bytes of a process by part, at the peak of each phase.

    Returns:
        {"update": {part: bytes}, "rollout": {part: bytes}}.
    """
    update = max(moments(shape, layout, work), key=lambda parts: sum(parts.values()))
    return {"update": update, "rollout": rollout(shape, layout, work)}


def held(shape: ModelShape, layout: Parallelism) -> tuple[Parts, float]:
    """Returns what is on the device throughout an update, by part, and the bytes of all gradients after
    it."""
    frozen = shape.parameters - shape.trained
    if layout.zero:
        share = layout.processes if layout.zero == 3 else 1
        parts = {"weights": shape.parameters * shape.width / share}
        if layout.zero == 3 and layout.processes > 1:
            parts["gathered weights"] = min(ZERO3_LIVE, shape.parameters) * shape.width
        parts["optimizer"] = 0 if layout.offload else shape.trained * MASTERS / layout.processes
        parts["gradients in a bucket"] = min(ZERO_BUCKET, shape.trained) * shape.width
        shards = 0 if layout.offload else layout.processes
        return parts, shape.trained * shape.width / shards if shards else 0.0
    share = layout.processes if layout.fsdp else 1
    parts = {"weights": (frozen * shape.frozen_width + shape.trained * shape.trained_width) / share}
    # two layers and the embedding, and a layer's float32 gradients before they are reduced to their shards
    if share > 1:
        parts["gathered weights"] = (2 * shape.a_layer + shape.embedding) * shape.width
        if shape.full:
            parts["gathered weights"] += shape.a_layer * FLOAT32
    parts["optimizer"] = 2 * shape.trained * shape.trained_width / share
    gradients = shape.trained * shape.trained_width / share
    # DDP keeps them in its buckets too
    return parts, gradients * (2 if layout.processes > 1 and not layout.fsdp else 1)


def autocast_copies(shape: ModelShape, layout: Parallelism) -> float:
    """Returns the bytes of the weight copies that autocast makes once per forward pass."""
    cast = shape.trained_width > shape.width and not layout.zero and not layout.fsdp
    return shape.trained * shape.width if cast else 0.0


def stream(shape: ModelShape, layout: Parallelism) -> int:
    """Returns the bytes per number in the residual stream: the width in which the embedding is stored or
    gathered."""
    if layout.zero or (layout.fsdp and shape.full):
        return shape.width
    return shape.trained_width if shape.full else shape.frozen_width


def moments(shape: ModelShape, layout: Parallelism, work: Workload) -> list[Parts]:
    """Returns the memory at five moments of an update: forward, scores, backward of the last and of the first
    layer, the end."""
    base, all_gradients = held(shape, layout)
    a = activations(shape, layout, work)
    sharded = bool(layout.zero or layout.fsdp)
    # DeepSpeed allocates its gradients at the start
    before = all_gradients if work.accumulates or layout.zero else 0.0
    head = 0.0  # the gradient of the output head comes first, and is kept until that of the tied embedding
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
    """Bytes of activations.

    Attributes:
        kept: kept by all layers for their backward pass.
        last: the part of `kept` that remains during the backward pass of the first layer.
        forward: needed in addition by the layer that runs forward.
        backward: needed in addition by the layer that runs backward.
        final: kept by the norm after the layers.
    """

    kept: float
    last: float
    forward: float
    backward: float
    final: float


def activations(shape: ModelShape, layout: Parallelism, work: Workload) -> Activations:
    """Counts the activations per token, as described at the head of the module."""
    b, s, D, A, K, F = shape.width, stream(shape, layout), shape.model, shape.queries, shape.keys, shape.mlp
    T = work.update
    tile = work.tile if 0 < work.tile < T else T
    whole = tile == T
    to_float32 = FLOAT32 if s < FLOAT32 else 0  # a norm's copy of its input, if that is not float32 already
    normalised = s if shape.full else 0
    autocasts = s > b  # each matrix (q, k and v; gate and up) has its own copy of its input
    attention_norm = to_float32 + normalised + (3 if autocasts else 1) * b
    mlp_norm = FLOAT32 + normalised + ((2 if autocasts else 1) * b if whole else s)
    heads = (FLOAT32 + (b if shape.full else 0) + b) * (A + K) + b * (K + A)
    exchanged = b * (A + 2 * K) if work.ranks > 1 else 0  # queries, keys and values on their way
    if exchanged:
        heads += b * A
    gates = 4 * b * F if whole else 0
    layer = T * ((attention_norm + mlp_norm) * D + heads + gates)

    # plus the gradients of gate, up and their product
    mlp = layer + T * 2 * b * F if whole else layer + tile * 6 * b * F
    # dout; dq, dk and dv in float32, as a call returns them; inside the kernel dq in float32, dk and dv per
    # query head
    call = min(work.call or T, T) * (b * (A + 2 * K) + (FLOAT32 + 2 * b) * A)
    attention = layer - T * (mlp_norm * D + gates) + T * (b * A + FLOAT32 * (A + 2 * K)) + call
    attention += T * 2 * exchanged
    forward = one_forward(shape, layout, T, tile, exchanged)
    final = T * D * (to_float32 + normalised + b)

    a_stream = T * D * s
    backward = a_stream + max(mlp, attention)  # including the gradient of the stream
    if not work.checkpointing:
        return Activations(shape.layers * layer + a_stream, layer, forward, backward - layer, final)
    # this layer's input is back on the device; with LoRA the embedding's output is a leaf, so it stays there
    a_output = T * b * A if work.keep else 0
    if work.offload:
        kept = a_stream * (1 if shape.full else 2)
        return Activations(kept + shape.layers * a_output, kept + a_output, forward, backward, final)
    return Activations(shape.layers * (a_stream + a_output), a_stream + a_output, forward, backward, final)


def one_forward(shape: ModelShape, layout: Parallelism, tokens: int, tile: int, exchanged: float) -> float:
    """Returns the bytes of a layer in a forward pass, with its input stream: the larger of its MLP and its
    attention. `exchanged` is what an all-to-all sends per token."""
    b, s, A, K = shape.width, stream(shape, layout), shape.queries, shape.keys
    # q, k, v; the merged output in float32, a call's output and its float32 copy; autocast: float32 rotated
    # queries and keys
    attends = b * (A + 2 * K) + (2 * FLOAT32 + b) * A + (FLOAT32 * (A + K) if s > b else 0) + exchanged
    gates = (3 if shape.full else 4) * b * shape.mlp  # LoRA adds its product to the product of the weights
    return tokens * (2 * s + b) * shape.model + max(tile * gates, tokens * attends)


def scores(shape: ModelShape, work: Workload) -> float:
    """Returns the bytes of logits and their softmax, computed for a chunk of positions at a time."""
    positions = min(work.scored, max(1, CHUNK_LOGITS // shape.vocabulary))
    return (
        positions * shape.vocabulary * (shape.width + 4 * FLOAT32) + work.scored * shape.model * shape.width
    )


def rollout(shape: ModelShape, layout: Parallelism, work: Workload) -> Parts:
    """Returns the memory while completions are sampled. Empty if there is no rollout, or if vLLM samples
    them."""
    if not work.rows or layout.vllm:
        return {}
    base, all_gradients = held(shape, layout)
    if layout.zero == 3 and layout.processes > 1:
        base["gathered weights"] = shape.parameters * shape.width
    if layout.zero < 3:
        base.pop("gradients in a bucket", None)  # ZeRO-2 frees it after a backward pass
    if layout.zero or work.accumulates:
        base["gradients"] = all_gradients
    b, ranks = shape.width, work.ranks
    # key heads are repeated if ranks do not divide them
    own_keys = shape.head * math.lcm(shape.keys // shape.head, ranks) // ranks
    a_token = 2 * own_keys * shape.layers * b
    base["keys and values"] = work.prefix * a_token
    tokens, rows = -(-work.prefix // ranks), -(-work.rows // ranks)
    exchanged = b * (shape.queries + 2 * own_keys * ranks) if ranks > 1 else 0
    prefill = {"one layer": one_forward(shape, layout, tokens, min(work.tile or tokens, tokens), exchanged)}
    if copies := autocast_copies(shape, layout):
        prefill["bfloat16 copies"] = copies
    suffixes = rows * (ranks * (work.completion - 1) * a_token + shape.vocabulary * (b + 4 * FLOAT32))
    decode = {"weights for decoding": decoding_weights(shape, layout), "suffixes and logits": suffixes}
    return base | max(prefill, decode, key=lambda parts: sum(parts.values()))


def decoding_weights(shape: ModelShape, layout: Parallelism) -> float:
    """Returns the bytes of the matrices that `prefix_tree.weights` holds during a rollout: those of queries,
    keys and values joined, and of gate and up; the other two as well if they are cast or merged with LoRA."""
    if layout.fsdp:  # its layers run as they are
        return 0.0
    columns = shape.queries + 2 * shape.keys + 2 * shape.mlp
    if not shape.full or autocast_copies(shape, layout):
        columns += shape.queries + shape.mlp
    return shape.layers * shape.model * columns * shape.width


def host(shape: ModelShape, layout: Parallelism, work: Workload) -> float:
    """Returns the bytes of pinned host memory for offloaded checkpoints. PyTorch pins power-of-two blocks."""
    block = work.update * shape.model * stream(shape, layout)
    return shape.layers * 2 ** (int(block) - 1).bit_length() if work.offload and block else 0.0


def peak(parts: dict[str, Parts]) -> float:
    """Returns the bytes of the larger of update and rollout."""
    return max(sum(phase.values()) for phase in parts.values())
