"""Importance-sampling correction: rollouts of an engine whose probabilities differ from those in training.

Invariant: the same ratios as TRL's, over the tokens that have a weight in the loss. A token whose log-prob
the engine did not give (NaN) has the ratio 1.
"""

import math
from typing import Any

import torch
from torch import Tensor

from rft.train.micro_batch import MicroBatch


def importance_ratios(batch: MicroBatch, args: Any, policy: Any) -> Tensor:
    """Returns the ratio of every token (B, C), or of every row (B, 1) for a sequence mode; logs differences
    and ratios.

    Args:
        batch: Its sampling and old log-probs.
        args: TRL's `vllm_importance_sampling_mode` and its bounds.
        policy: Logs and gathers.
    """
    tensors, mode = batch.tensors, args.vllm_importance_sampling_mode
    counts_BC = (tensors["weights"] * tensors["completion_mask"]).bool()
    off_BC = tensors["old_per_token_logps"] - tensors["sampling_per_token_logps"]
    known_BC = counts_BC & ~off_BC.isnan()
    logs = (off_BC * counts_BC).nan_to_num(nan=0.0)
    if mode.startswith("sequence"):
        logs = logs.sum(1, keepdim=True)
    ratios = logs.exp()
    low, high = args.vllm_importance_sampling_clip_min, args.vllm_importance_sampling_clip_max
    if mode.endswith("truncate"):
        ratios = ratios.clamp(min=low, max=high)
    else:
        outside = (ratios < (-math.inf if low is None else low)) | (
            ratios > (math.inf if high is None else high)
        )
        ratios = ratios.masked_fill(outside, 0.0)
    shown = ratios.flatten() if mode.startswith("sequence") else ratios[counts_BC]
    for name, values in (
        ("sampling/sampling_logp_difference", off_BC[known_BC].abs()),
        ("sampling/importance_sampling_ratio", shown),
    ):
        everyone = torch.tensor(policy.gather(values.tolist()) or [0.0])
        reduced = {"mean": everyone.mean(), "max": everyone.max()}
        if name.endswith("ratio"):
            reduced["min"] = everyone.min()
        for reduction, value in reduced.items():
            policy.record(f"{name}/{reduction}", value.item())
    return ratios
