"""Peak memory of an update by the estimate of `--dry-run`, without the optimizer, since benchmarks have
none."""

from typing import Any

from rft.bench.setting import Setting
from rft.plan.memory_estimate import KEPT_KEYS, ModelShape, Parallelism, Workload, estimate


def estimated_bytes(setting: Setting, model: Any, tokens: int, scored: int) -> int:
    """Returns the estimated bytes of weights, gradients and activations.

    Args:
        setting: the benchmark.
        model: the model, on any device including "meta".
        tokens: number of tokens in the tree.
        scored: number of positions with logits.
    """
    keep = setting.keep_attention and setting.prompt_tokens >= KEPT_KEYS
    work = Workload(tokens, scored, setting.checkpointing, accumulates=True, keep=keep)
    parts = estimate(
        ModelShape.of(model, half=setting.lora and setting.dtype == "bfloat16"), Parallelism(), work
    )["update"]
    return int(sum(size for name, size in parts.items() if name != "optimizer"))
