"""What `--dry-run` would say that an update of a bench's model holds at its peak; the optimizer is left out, a bench has none."""

from typing import Any

from rft.bench.setting import Setting
from rft.plan.memory_estimate import ModelShape, Parallelism, Workload, estimate


def estimated_bytes(setting: Setting, model: Any, tokens: int, scored: int) -> int:
    """Bytes of weights, gradients and activations. model: on any device, "meta" too; tokens: of the tree; scored: positions with
    logits."""
    work = Workload(tokens, scored, setting.checkpointing, accumulates=True)
    parts = estimate(ModelShape.of(model, half=setting.lora and setting.dtype == "bfloat16"), Parallelism(), work)["update"]
    return int(sum(size for name, size in parts.items() if name != "optimizer"))
