"""Advantages: how much better a completion is than those it competes with (TRL's formula).

Invariant: if all scored members of a group have the same reward, their advantages are exactly 0. What could
not be scored (NaN) enters no mean and no deviation, and its advantage is 0.

Shapes: N completions, in groups of G neighbours that compete; F reward functions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rft.train.rollout import Gather

EPSILON = 1e-4  # added to a deviation


def advantages(
    scores_NF: Tensor,
    weights: Sequence[float],
    group: int,
    scale: str = "group",
    aggregation: str = "sum_then_normalize",
    gather: Gather = list,
) -> Tensor:
    """Computes the advantage of every completion, in the precision of the scores.

    Args:
        scores_NF: What each reward function gave; NaN: not scored.
        weights: Weights of the F reward functions.
        group: G, how many neighbours compete.
        scale: What the difference from the group's mean is divided by: the deviation of the "group", that of
            the "batch" over all ranks, or "none".
        aggregation: TRL's multi_objective_aggregation. "sum_then_normalize": rewards are weighted sums of
            scores. "normalize_then_sum": each function's scores are normalized in their group before they are
            added, and the sum over the batch.
        gather: Concatenates lists over all ranks; all ranks call this function together.

    Returns:
        advantages_N.
    """
    weights_F = torch.tensor(weights, dtype=scores_NF.dtype)
    unscored_N = scores_NF.isnan().all(1)

    def over_all_ranks(values_N: Tensor) -> Tensor:
        return torch.tensor(gather(values_N.tolist()), dtype=values_N.dtype)

    def weighted(table_NF: Tensor) -> Tensor:
        return (table_NF * weights_F).nansum(1).masked_fill(unscored_N, torch.nan)

    if aggregation == "normalize_then_sum":
        grouped = scores_NF.view(-1, group, scores_NF.shape[1])
        normal = (grouped - grouped.nanmean(1, keepdim=True)) / (deviation(grouped) + EPSILON)
        rewards_N = weighted(normal.view_as(scores_NF))
        everyone = over_all_ranks(rewards_N)
        found_N = (rewards_N - everyone.nanmean()) / (deviation(everyone, 0) + EPSILON)
        return found_N.nan_to_num(nan=0.0)
    rewards_N = weighted(scores_NF)
    rewards_MG = rewards_N.view(-1, group)
    found_MG = rewards_MG - rewards_MG.nanmean(1, keepdim=True)
    if scale == "group":
        found_MG = found_MG / (deviation(rewards_MG) + EPSILON)
    elif scale == "batch":
        found_MG = found_MG / (deviation(over_all_ranks(rewards_N), 0) + EPSILON)
    return found_MG.masked_fill(flat(rewards_MG)[:, None], 0.0).nan_to_num(nan=0.0).flatten()


def deviation(values: Tensor, dim: int = 1) -> Tensor:
    """Computes the deviation (n - 1) of the numbers that are not NaN along a dimension, which is kept; NaN if
    there are fewer than two."""
    count = (~values.isnan()).sum(dim, keepdim=True).to(values.dtype)
    variance = ((values - values.nanmean(dim, keepdim=True)) ** 2).nanmean(dim, keepdim=True)
    return (variance * (count / (count - 1)).where(count > 1, torch.nan)).sqrt()


def flat(rewards_MG: Tensor) -> Tensor:
    """Whether each group has fewer than two different rewards, so that nothing is learned from it (M)."""
    highest_M = rewards_MG.nan_to_num(nan=-torch.inf).amax(1)
    return highest_M <= rewards_MG.nan_to_num(nan=torch.inf).amin(1)
