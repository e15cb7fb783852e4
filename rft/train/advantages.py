"""Advantages: how much better a completion is than those it competes with (TRL's formula), and whether there
is a difference at all.

Invariant: if all scored members of a group have the same reward, their advantages are exactly 0. What could
not be scored (NaN) enters no mean and no deviation, and its advantage is 0.

Shapes: N completions, in groups of G neighbours that compete; F reward functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rft.train.rollout import Gather, Turn

EPSILON = 1e-4  # added to a deviation


@dataclass
class Contest:
    """Competitors in groups of neighbours, each with the turns that get its advantage.

    Attributes:
        turns: N lists; a list is empty if nothing of a competitor is trained.
        scores_NF: What each reward function gave a competitor.
        weights: Weights of the F reward functions.
        group: G, how many neighbours compete.
    """

    turns: list[list[Turn]]
    scores_NF: Tensor
    weights: Sequence[float]
    group: int

    def decide(self, args: Any, gather: Gather) -> None:
        """Sets the advantage of every turn; all ranks call it together. `args` has TRL's `scale_rewards` and
        `multi_objective_aggregation`."""
        scale, aggregation = args.scale_rewards, args.multi_objective_aggregation
        found_N = advantages(self.scores_NF, self.weights, self.group, scale, aggregation, gather)
        for turns, advantage in zip(self.turns, found_N.tolist(), strict=True):
            for turn in turns:
                turn.advantage = advantage

    def is_flat(self, args: Any) -> bool:
        """Whether nothing can be learned: no competitor has turns, or none differs from its group."""
        # functions may differ though their sums do not
        if args.multi_objective_aggregation == "normalize_then_sum":
            columns_FN = (self.scores_NF * torch.tensor(self.weights, dtype=self.scores_NF.dtype)).T
        else:
            columns_FN = weighted(self.scores_NF, self.weights, self.scores_NF.isnan().all(1))[None]
        groups_MG = columns_FN.reshape(-1, self.group)
        return not any(self.turns) or bool(flat(groups_MG).all())


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
    unscored_N = scores_NF.isnan().all(1)

    def over_all_ranks(values_N: Tensor) -> Tensor:
        return torch.tensor(gather(values_N.tolist()), dtype=values_N.dtype)

    if aggregation == "normalize_then_sum":
        grouped = scores_NF.view(-1, group, scores_NF.shape[1])
        normal = (grouped - grouped.nanmean(1, keepdim=True)) / (deviation(grouped) + EPSILON)
        rewards_N = weighted(normal.view_as(scores_NF), weights, unscored_N)
        everyone = over_all_ranks(rewards_N)
        found_N = (rewards_N - everyone.nanmean()) / (deviation(everyone, 0) + EPSILON)
        return found_N.nan_to_num(nan=0.0)
    rewards_N = weighted(scores_NF, weights, unscored_N)
    rewards_MG = rewards_N.view(-1, group)
    found_MG = rewards_MG - rewards_MG.nanmean(1, keepdim=True)
    if scale == "group":
        found_MG = found_MG / (deviation(rewards_MG) + EPSILON)
    elif scale == "batch":
        found_MG = found_MG / (deviation(over_all_ranks(rewards_N), 0) + EPSILON)
    return found_MG.masked_fill(flat(rewards_MG)[:, None], 0.0).nan_to_num(nan=0.0).flatten()


def weighted(table_NF: Tensor, weights: Sequence[float], unscored_N: Tensor) -> Tensor:
    """Computes the weighted sum (N) of what is not NaN; NaN for a completion that no function has scored."""
    weights_F = torch.tensor(weights, dtype=table_NF.dtype)
    return (table_NF * weights_F).nansum(1).masked_fill(unscored_N, torch.nan)


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
