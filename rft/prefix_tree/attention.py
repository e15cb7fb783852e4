"""Attention over a packed tree: every query attends its own path from the root, in partial attentions that
are merged exactly.

A query attends causally the tokens of its own node and fully the tokens of every node above it. Each node's
keys thus meet two kinds of queries: its own, causally, and those of all its descendants, one contiguous
slice. Two partial attentions of one query with outputs o1, o2 and log-sum-exps l1, l2 merge to (ring
attention, https://arxiv.org/abs/2310.01889):

    l = logaddexp(l1, l2),  o = o1 * exp(l1 - l) + o2 * exp(l2 - l)

and the flash backward of each part, given the merged o and l, is that part's exact share of the gradients.
All nodes of a level share a call, so the calls of a layer grow with the depth of the tree; no key is copied
per row and no mask is built.

`enable(model)` registers it with transformers as "prefix_tree". A forward with the keyword
`prefix_tree=Plan(tree)` then runs over the tree; a forward without it is transformers' own sdpa. The plan
travels as a keyword, so whatever replays a layer (gradient checkpointing) or wraps the model (DDP, ZeRO,
FSDP, PEFT) needs to know nothing about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from rft.errors import ModelError
from rft.prefix_tree.kernels import Call, Rows, call, check
from rft.prefix_tree.layout import Node, Tree
from rft.prefix_tree.support import check_layers

NAME = "prefix_tree"

BLOCK = 128
"""Queries that a block of a CUDA kernel takes: shorter spans cost as much."""


class Plan:
    """The attention calls of a tree, the same for every layer: in `own` nodes attend themselves, causally
    (together they cover all slots), and in `above` descendants attend a node, level by level."""

    def __init__(self, tree: Tree):
        device = tree.device
        self.own, self.above = [], []
        for nodes in alike(tree.nodes, device, own_length):
            spans = [(n.start, n.end) for n in nodes]
            self.own.append(call(spans, spans, True, device))
        for level in range(1 + max((n.level for n in tree.nodes), default=-1)):
            parents = [n for n in tree.nodes if n.level == level and n.stop > n.end]
            for nodes in alike(parents, device, own_length, lambda n: n.stop - n.end):
                queries, keys = [(n.end, n.stop) for n in nodes], [(n.start, n.end) for n in nodes]
                self.above.append(call(queries, keys, False, device))

    def attend(self, module: nn.Module, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, scale: float) -> Tensor:
        """One layer's attention (T, H, D) over the tree."""
        return _TreeAttention.apply(q_THD, k_TKD, v_TKD, self, scale)


def own_length(node: Node) -> int:
    """How many tokens the node adds."""
    return node.end - node.start


def alike(nodes: Iterable[Node], device: torch.device, *sizes: Callable[[Node], int]) -> list[list[Node]]:
    """Groups nodes that may share a call. On CPU their sizes are within a factor of two, since a call pads
    every span to its longest; on CUDA within a factor of eight, since it launches as many blocks for every
    span as for the longest, and most of them have nothing to do."""
    least, doublings = (BLOCK, 3) if device.type == "cuda" else (1, 1)
    groups: dict[tuple[int, ...], list[Node]] = defaultdict(list)
    for node in nodes:
        groups[tuple((max(size(node), least) - 1).bit_length() // doublings for size in sizes)].append(node)
    return list(groups.values())


def merge_(out_THD: Tensor, lse_TH: Tensor, rows: Rows, part_NHD: Tensor, part_lse_NH: Tensor) -> None:
    """Merges the partial attention of some queries into `out_THD` and `lse_TH`, in place."""
    out, lse = out_THD[rows], lse_TH[rows]
    merged = torch.logaddexp(lse, part_lse_NH)
    out = out.mul_((lse - merged).exp_()[..., None]).addcmul_(
        part_NHD.to(out.dtype), (part_lse_NH - merged).exp_()[..., None]
    )
    lse_TH[rows] = merged
    if not isinstance(rows, slice):
        out_THD[rows] = out


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        # partial outputs are merged in no less than float32
        exact = torch.promote_types(q.dtype, torch.float32)
        out, lse = torch.empty_like(q, dtype=exact), q.new_empty(q.shape[:2], dtype=exact)
        for part in plan.own:
            for total, share in zip((out, lse), part.forward(*_operands(part, q, k, v), scale), strict=True):
                _put(total, part.query_rows, share)
        for part in plan.above:
            merge_(out, lse, part.query_rows, *part.forward(*_operands(part, q, k, v), scale))
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        exact = lse.dtype
        dq, dk, dv = (torch.empty_like(x, dtype=exact) for x in (q, k, v))
        for parts, store in ((ctx.plan.own, _put), (ctx.plan.above, _add)):
            for part in parts:
                rows, keys = part.query_rows, part.key_rows
                shares = part.backward(dout[rows], *_operands(part, q, k, v), out[rows], lse[rows], ctx.scale)
                for total, where, share in zip((dq, dk, dv), (rows, keys, keys), shares, strict=True):
                    store(total, where, share)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None


def _put(total: Tensor, rows: Rows, share: Tensor) -> None:
    total[rows] = share.to(total.dtype)


def _add(total: Tensor, rows: Rows, share: Tensor) -> None:
    total[rows] += share


def _operands(part: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q[part.query_rows], k[part.key_rows], v[part.key_rows]


def tree_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefix_tree: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function given to transformers: over the tree if the forward has a plan, otherwise sdpa.

    Raises:
        ModelError: If the attention has dropout, a window, a soft cap or sinks: then paths do not merge as
            above.
    """
    if prefix_tree is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    given = kwargs | {"dropout": dropout}
    for name in ("dropout", "sliding_window", "softcap", "s_aux"):
        if given.get(name):
            raise ModelError(
                f"prefix sharing cannot treat attention with {name} exactly: set `prefix_sharing: off`"
            )
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (x.to(torch.get_autocast_dtype(query.device.type)) for x in (query, key, value))
    check(query)
    q_THD, k_TKD, v_TKD = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return prefix_tree.attend(module, q_THD, k_TKD, v_TKD, scale)[None], None


def enable(model: PreTrainedModel) -> None:
    """Sets the model's attention to "prefix_tree" permanently; forwards without a plan behave as under sdpa.
    Call it on the model itself or a PEFT model, before it is wrapped for training.

    Raises:
        ModelError: If the tree cannot treat the model exactly (`support.check_layers`).
    """
    check_layers(model)
    AttentionInterface.register(NAME, tree_attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def check_enabled(model: Any) -> None:
    """Checks that `enable` was called: any other attention would ignore the tree.

    Args:
        model: a transformers model or a PEFT model, not wrapped for training.

    Raises:
        ModelError: If it was not.
    """
    found = model.config.get_text_config()._attn_implementation
    if found != NAME:
        raise ModelError(
            f"the model's attention is {found!r}, which ignores trees: call rft.enable_prefix_tree(model)"
        )


def forward_kwargs(tokens_T: Tensor, positions_T: Tensor, plan: Any) -> dict[str, Any]:
    """The keywords of a forward of packed tokens. The mask of one cell is four-dimensional, so that no model
    builds its own."""
    return {
        "input_ids": tokens_T[None],
        "position_ids": positions_T[None],
        "attention_mask": torch.ones(1, 1, 1, 1, device=tokens_T.device),
        "use_cache": False,
        NAME: plan,
    }
