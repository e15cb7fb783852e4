"""A rollout over the ranks of a group: each holds the keys and values of its own heads, of all rows.

Prompts are prefilled as an update is forwarded (`sequence_parallel`). A decode step is shared out by rows: a
rank takes an equal slice of them through the layers and draws their next tokens. Attention is shared out by
heads, between two all-to-alls:

    rank 0   rows [0, r), all heads           all rows, heads of rank 0           rows [0, r), all heads
    rank 1   rows [r, 2r), all heads   --->   all rows, heads of rank 1   --->   rows [r, 2r), all heads

Invariant: between two steps, every rank of the group knows the same of every row. So which rows have ended,
and which are dropped, needs no word between ranks, and the completions are whole on each of them.

Shapes: N ranks, R rows in a step, r = R / N of them on a rank, T tokens of the prompts' tree, H query heads
over K key heads of size D, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rft.prefix_tree.attention import forward_kwargs
from rft.prefix_tree.decode import Decode, Prefill
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.sequence_parallel import Group, Shard, ShardPlan, add_up, by_heads, by_tokens, exchange


class ShardPrefill(ShardPlan, Prefill):
    """The plan of a prompts' tree that keeps every layer's keys and values of this rank's heads."""

    def attend(self, module: nn.Module, q_SHD: Tensor, k_SKD: Tensor, v_SKD: Tensor, scale: float) -> Tensor:
        """One layer's attention (S, H, D) of this rank's tokens; keeps the keys and values of its heads."""
        out_SHD = super().attend(module, q_SHD, k_SKD, v_SKD, scale)
        layer: int = module.layer_idx  # type: ignore[assignment]
        k_TkD, v_TkD = self.cache[layer]  # parts of a tensor that holds the queries too
        self.cache[layer] = k_TkD.clone(), v_TkD.clone()
        return out_SHD


class ShardDecode(Decode):
    """The plan of a decode step whose rows are spread over the ranks of a group; arguments as `Decode`'s, of
    all rows."""

    prefill: ShardPrefill

    def attend_next(self, layer: int, q_RHD: Tensor, kv_RSD: Tensor, scale: float) -> Tensor:
        """One layer's attention (r, H, D) of this rank's rows, from their keys and values (r, 2 * K, D)."""
        k_RKD, v_RKD = kv_RSD.chunk(2, 1)
        mine_RhD, heads = by_heads(q_RHD, k_RKD, v_RKD, self.prefill.group)
        q, kv = mine_RhD.tensor_split([heads[0]], 1)
        return by_tokens(super().attend_next(layer, q, kv, scale), self.prefill.group)


class Share:
    """What this process does of a rollout: everything, or its part of it as a rank of a group.

    Args:
        group: the process group; None if this process rolls out alone.
    """

    def __init__(self, group: Group | None):
        self.group = group
        self.ranks = 1 if group is None else dist.get_world_size(group)
        self.plan: type[Decode] = Decode if group is None else ShardDecode

    def prefill(self, model: nn.Module, tree: Tree, last_R: Tensor) -> tuple[Prefill, Tensor]:
        """Forwards the prompts.

        Args:
            model: the model.
            tree: the prompts.
            last_R: for every row the slot of its prompt's last token.

        Returns:
            The plan with its keys and values, and the logits (r, V) after the prompts of this rank's rows.
        """
        if self.group is None:
            prefill = Prefill(tree)
            kwargs = forward_kwargs(tree.tokens_T, tree.positions_T, prefill)
            return prefill, model(**kwargs, logits_to_keep=last_R).logits.squeeze(0)
        shard = Shard(tree, self.group, ShardPrefill)
        slots_B, prompts_R = last_R.unique(return_inverse=True)
        here = (slots_B >= shard.start) & (slots_B < shard.start + len(shard.tokens_T))
        own_b = here.nonzero().squeeze(1)
        kwargs = forward_kwargs(shard.tokens_T, shard.positions_T, shard.plan)
        logits_bV = model(**kwargs, logits_to_keep=slots_B[own_b] - shard.start).logits.squeeze(0)
        logits_BV = logits_bV.new_zeros(len(slots_B), logits_bV.shape[1]).index_copy_(0, own_b, logits_bV)
        plan: Any = shard.plan
        return plan, add_up(logits_BV, self.group)[self.of(prompts_R)]

    def of(self, x_R: Tensor) -> Tensor:
        """This rank's slice of what there is for every row."""
        return x_R if self.group is None else x_R.chunk(self.ranks)[dist.get_rank(self.group)]

    def gather(self, tokens_r: Tensor, logps_r: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and log-probs that all ranks have drawn, of all rows, in one collective."""
        if self.group is None:
            return tokens_r, logps_r
        mine_2r = torch.stack((tokens_r.double(), logps_r.double()))  # both exact in float64
        all_N2r = exchange(mine_2r.expand(self.ranks, -1, -1), self.group)
        tokens_R, logps_R = all_N2r.transpose(0, 1).flatten(1)
        return tokens_R.long(), logps_R.to(logps_r.dtype)
