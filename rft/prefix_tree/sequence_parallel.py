"""One tree over several processes (Ulysses sequence parallelism, https://arxiv.org/abs/2309.14509).

N ranks of a process group hold the same tree, and each forwards an equal slice of its packed tokens through
the layers. Only attention needs all tokens: an all-to-all gives every rank all tokens of some heads, the plan
of the tree runs on these as it does on one process, and a second all-to-all returns every token's heads to
its rank:

    rank 0   tokens [0, S), all heads          all tokens, heads of rank 0          tokens [0, S), all heads
    rank 1   tokens [S, 2S), all heads  --->   all tokens, heads of rank 1  --->   tokens [S, 2S), all heads

Invariant: every function here is linear in its tensors, and its backward pass is its exact transpose. So a
rank's gradients are those of the SUM of all ranks' losses with respect to the weights it has used; where each
rank computes the loss of the whole tree, their mean over the ranks is the gradient of that loss, and this
mean is what DDP, ZeRO and FSDP compute.

Shapes: T tokens, N ranks of S = ceil(T / N) tokens (the last slots are padding that no score looks at), H
query heads, K key heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rft.prefix_tree.attention import Plan
from rft.prefix_tree.layout import Tree

Group = Any
"""A torch.distributed process group."""


class Shard:
    """A rank's part of a tree: its slice of the tokens, and the completion tokens that these predict.

    Args:
        tree: the whole tree, the same on all ranks of the group.
        group: the process group.
        make: makes the plan; by default one for training.

    Attributes:
        start: the first of this rank's slots in the tree.
        tokens_T, positions_T: S token ids and their positions; padding is token 0 at position 0.
        slots_N, labels_N, rows_N, columns_N, shape: as in `Tree`, of the completion tokens that a slot of
            this rank predicts; slots count from the rank's first one.
        plan: the attention of all ranks together.
    """

    def __init__(self, tree: Tree, group: Group, make: Callable[[Tree, Group], ShardPlan] | None = None):
        rank, ranks = dist.get_rank(group), dist.get_world_size(group)
        size = max(1, -(-len(tree.tokens_T) // ranks))
        self.start = start = rank * size
        self.tokens_T, self.positions_T = (
            nn.functional.pad(x_T, (0, size * ranks - len(x_T)))[start : start + size]
            for x_T in (tree.tokens_T, tree.positions_T)
        )
        own_N = ((tree.slots_N >= start) & (tree.slots_N < start + size)).nonzero().squeeze(1)
        self.slots_N = tree.slots_N[own_N] - start
        self.labels_N, self.rows_N, self.columns_N = (
            x_N[own_N] for x_N in (tree.labels_N, tree.rows_N, tree.columns_N)
        )
        self.shape = tree.shape
        self.plan = (make or ShardPlan)(tree, group)


class ShardPlan(Plan):
    """The plan of a tree whose tokens are spread over the ranks of a group."""

    def __init__(self, tree: Tree, group: Group):
        super().__init__(tree)
        self.tokens, self.group = len(tree.tokens_T), group

    def attend(self, module: nn.Module, q_SHD: Tensor, k_SKD: Tensor, v_SKD: Tensor, scale: float) -> Tensor:
        """One layer's attention (S, H, D) of this rank's tokens over the tree."""
        mine_ThD, heads = by_heads(q_SHD, k_SKD, v_SKD, self.group)
        q, k, v = mine_ThD[: self.tokens].split(heads, 1)
        out_ThD = super().attend(module, q, k, v, scale)
        padding = (0, 0, 0, 0, 0, len(mine_ThD) - self.tokens)
        return by_tokens(nn.functional.pad(out_ThD, padding), self.group)


def by_heads(q_SHD: Tensor, k_SKD: Tensor, v_SKD: Tensor, group: Group) -> tuple[Tensor, list[int]]:
    """Exchanges all heads of this rank's tokens for all tokens of its heads.

    Returns:
        Queries, keys and values side by side (N * S, h, D), and the number of heads of each. If N does not
        divide the key heads, these are repeated until it does.
    """
    ranks = dist.get_world_size(group)
    repeats = math.lcm(k_SKD.shape[1], ranks) // k_SKD.shape[1]
    if repeats > 1:
        k_SKD, v_SKD = (x.repeat_interleave(repeats, 1) for x in (k_SKD, v_SKD))
    # (N, S, heads of a rank, D)
    parts = [x.unflatten(1, (ranks, -1)).transpose(0, 1) for x in (q_SHD, k_SKD, v_SKD)]
    return exchange(torch.cat(parts, 2), group).flatten(0, 1), [part.shape[2] for part in parts]


def by_tokens(out_ThD: Tensor, group: Group) -> Tensor:
    """Exchanges all tokens (N * S, h, D) of this rank's heads for all heads (S, N * h, D) of its tokens."""
    own_NShD = exchange(out_ThD.unflatten(0, (dist.get_world_size(group), -1)), group)
    return own_NShD.transpose(0, 1).flatten(1, 2)


def exchange(blocks_NX: Tensor, group: Group) -> Tensor:
    """All-to-all: sends block n to rank n of the group, and returns what each rank sent to this one."""
    return _Exchange.apply(blocks_NX, group)


def add_up(x: Tensor, group: Group) -> Tensor:
    """The sum of a tensor over the ranks of a group, on each of them."""
    return _AddUp.apply(x, group)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blocks_NX: Tensor, group: Group) -> Tensor:
        ctx.group = group
        sent = blocks_NX.contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        return received

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_NX: Tensor) -> tuple[Tensor | None, ...]:
        return exchange(grad_NX, ctx.group), None


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return add_up(grad, ctx.group), None
