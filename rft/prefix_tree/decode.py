"""The attention of a decode step: rows, one token each, over a prefilled tree and the suffixes they have
grown.

Partial attentions are merged by log-sum-exp (cascade inference): the rows under a node attend the node's keys
in one dense call, level by level, and each row its own suffix. All parts of a query are weighed at once:

    weights = softmax(log-sum-exps of the parts),  out = sum of weights * outputs of the parts

Grouped queries are folded into rows, (R, H, D) -> (R * g, K, D), so that a shared key is read once for all
its query heads.

Shapes: R rows, T tokens of the prompts' tree, H query heads in K groups of g, F = R * g folded rows, N of
them in a part, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rft.prefix_tree import cudnn
from rft.prefix_tree.attention import Plan, alike, own_length
from rft.prefix_tree.cache import Suffixes
from rft.prefix_tree.compiled import Function, compiled, compiles
from rft.prefix_tree.kernels import Flash, Span, call, flash, rows_of
from rft.prefix_tree.layout import Node, Tree

LONG = 1024
"""Nodes of at least this many tokens are attended in place; the keys of shorter ones are copied side by side,
for one call per level."""

BRIEF = 64
"""On a CPU, nodes of at most this many tokens share a call, padded: a call costs more than their keys."""

PIECE, PIECES = 128, 8
"""If merging is one kernel, short nodes are attended in at most so many pieces of at least so many keys."""

FEW = 64
"""Folded rows from which one node is attended in pieces, at least."""

Partial = tuple[Tensor, Tensor]
"""Outputs (N, K, D) and log-sum-exps (N, K) of queries over some of their keys."""

Copies = dict[tuple[tuple[Span, ...], int], tuple[Tensor, Tensor]]
"""Keys and values of several nodes side by side, by the nodes' slots and the layer."""


class Prefill(Plan):
    """The plan of a prompts' tree that keeps every layer's keys and values (T, K, D), by layer index."""

    def __init__(self, tree: Tree):
        super().__init__(tree)
        self.tree = tree
        self.cache: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, module: nn.Module, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, scale: float) -> Tensor:
        """One layer's attention (T, H, D); keeps the layer's keys and values."""
        self.cache[module.layer_idx] = (k_TKD, v_TKD)  # type: ignore[index]
        return super().attend(module, q_THD, k_TKD, v_TKD, scale)


class Decode:
    """The plan of a decode step: rows sorted by their leaves, over a prefilled tree and the suffix that each
    row has grown.

    Args:
        prefill: the tree after its forward.
        leaves: for every row the index of its last node.
        most: the maximum length of a suffix.

    Raises:
        ModelError: If the suffixes do not fit into memory.
    """

    def __init__(self, prefill: Prefill, leaves: list[int], most: int):
        self.prefill, self.leaves = prefill, leaves
        self.suffixes = Suffixes(len(leaves), most, {layer: k for layer, (k, _) in prefill.cache.items()})
        self.levels: list[Level] = []
        self.copies: Copies = {}
        self.compiles = compiles(prefill.tree.device, len(prefill.cache), most)
        self.merge = self.one_kernel(merge)

    def one_kernel(self, function: Function) -> Function:
        """The function as one kernel, if that pays in this rollout."""
        return compiled(function) if self.compiles else function

    def keep(self, rows: list[int], rows_N: Tensor) -> None:
        """Keeps these rows (the same numbers on the host and on the device), in this order."""
        self.leaves = [self.leaves[row] for row in rows]
        self.suffixes.keep(rows_N)
        self.levels = []

    def attend(self, module: nn.Module, q_RHD: Tensor, k_RKD: Tensor, v_RKD: Tensor, scale: float) -> Tensor:
        """One layer's attention (R, H, D) of the rows' next tokens, as the model's own forward asks."""
        layer: int = module.layer_idx  # type: ignore[assignment]
        return self.attend_next(layer, q_RHD, torch.cat((k_RKD, v_RKD), 1), scale)

    def attend_next(self, layer: int, q_RHD: Tensor, kv_RSD: Tensor, scale: float) -> Tensor:
        """One layer's attention (R, H, D) of the rows' next tokens, keys and values (R, 2 * K, D)."""
        groups = 2 * q_RHD.shape[1] // kv_RSD.shape[1]
        q_FKD = q_RHD.unflatten(1, (-1, groups)).transpose(1, 2).flatten(0, 1)
        self.levels = self.levels or self._levels(q_RHD, kv_RSD)
        parts = [self.suffixes.attend(layer, q_FKD, kv_RSD, scale)]
        for level in self.levels:
            parts += level.forward(q_FKD, layer, *self.prefill.cache[layer], scale)
        outs, lses = zip(*parts, strict=True)
        return self.merge(outs, lses, groups)

    def _levels(self, q_RHD: Tensor, kv_RSD: Tensor) -> list[Level]:
        heads = kv_RSD.shape[1] // 2
        groups = q_RHD.shape[1] // heads
        by_level: dict[int, list[Part]] = {}
        for part in self._arrange(groups):
            by_level.setdefault(part.level, []).append(part)
        levels = [Level(of_level, len(self.leaves) * groups) for of_level in by_level.values()]
        if self.compiles:  # merging is cheap
            by_cudnn = cudnn.attends(q_RHD, kv_RSD[:, :heads], Flash.of_one_span)
            for level in levels:
                level.cut(by_cudnn)
        used = {part.keys for level in levels for part in level.parts}
        self.copies = {key: copy for key, copy in self.copies.items() if key[0] in used}
        return levels

    def _arrange(self, groups: int) -> list[Part]:
        """Assigns folded rows to the nodes they attend, level by level."""
        tree, parts = self.prefill.tree, []
        starts = [tree.nodes[leaf].start for leaf in self.leaves]
        spans: dict[Node, Span] = {}
        for node in tree.nodes:
            under = [r for r, start in enumerate(starts) if node.start <= start < node.stop]
            if under:
                spans[node] = (under[0] * groups, (under[-1] + 1) * groups)
        # few queries, no backward: on CUDA only the calls cost
        padded = () if tree.device.type == "cuda" else (lambda node: max(own_length(node), BRIEF),)
        for level in sorted({node.level for node in spans}):
            nodes = [node for node in spans if node.level == level]
            short = alike([node for node in nodes if own_length(node) < LONG], tree.device, *padded)
            for batch in [[node] for node in nodes if own_length(node) >= LONG] + short:
                parts.append(Part(batch, [spans[node] for node in batch], tree.device, self.copies))
        return parts


class Level:
    """The parts of one level of the tree. They attend with disjoint rows, so that together they are one part
    of all rows."""

    def __init__(self, parts: list[Part], rows: int):
        self.parts, self.rows = parts, rows
        spans = [span for part in parts for span in part.queries]
        where = rows_of(spans, parts[0].device)
        in_order = isinstance(where, slice) and where == slice(0, rows)
        self.where = None if in_order else _indices(where, parts[0].device)

    def cut(self, by_cudnn: bool) -> None:
        """Attends in pieces, if this is one part of all rows."""
        if self.where is None and len(self.parts) == 1:
            self.parts[0].cut(by_cudnn and self.rows >= FEW)

    def forward(self, q_FKD: Tensor, layer: int, k_TKD: Tensor, v_TKD: Tensor, scale: float) -> list[Partial]:
        """Outputs (F, K, D) and log-sum-exps (F, K); 0 and -inf for rows without a node in this level."""
        results = [part.forward(q_FKD[part.query_rows], layer, k_TKD, v_TKD, scale) for part in self.parts]
        if len(results) == 1 and self.where is None:
            return results[0]
        out, lse = map(torch.cat, zip(*(whole for [whole] in results), strict=True))  # only one part is cut
        if self.where is None:
            return [(out, lse)]
        out_FKD = out.new_zeros(self.rows, *out.shape[1:]).index_copy_(0, self.where, out)
        return [
            (out_FKD, lse.new_full((self.rows, *lse.shape[1:]), -torch.inf).index_copy_(0, self.where, lse))
        ]


class Part:
    """Folded rows attending nodes of one level: one node in place, or several with their keys copied side by
    side, once."""

    def __init__(self, nodes: list[Node], queries: list[Span], device: torch.device, copies: Copies):
        self.keys = tuple((node.start, node.end) for node in nodes)
        self.level, self.queries, self.device, self.copies = nodes[0].level, queries, device, copies
        self.pieces, self.by_cudnn = 1, False
        self.call = call(queries, self.keys, False, device) if len(self.keys) > 1 else None
        self.query_rows, self.key_rows = rows_of(queries, device), rows_of(self.keys, device)

    def cut(self, by_cudnn: bool) -> None:
        """Attends in pieces, so that more of the device's processors work at once: one node by cuDNN if asked
        to, several in as many pieces each."""
        if self.call is None:
            self.by_cudnn = by_cudnn
            return
        self.pieces = min(PIECES, *(-(-(end - start) // PIECE) for start, end in self.keys))
        self.keys = tuple(
            (start + (end - start) * i // self.pieces, start + (end - start) * (i + 1) // self.pieces)
            for i in range(self.pieces)
            for start, end in self.keys
        )
        self.call = call(self.queries * self.pieces, self.keys, False, self.device)
        self.key_rows = rows_of(self.keys, self.device)

    def forward(self, q_NKD: Tensor, layer: int, k_TKD: Tensor, v_TKD: Tensor, scale: float) -> list[Partial]:
        """Outputs (N, K, D) and log-sum-exps (N, K), of all keys or of pieces of them."""
        if self.call is not None:
            key = (self.keys, layer)
            if key not in self.copies:
                k, v = (self.call.pack_keys(x[self.key_rows]) for x in (k_TKD, v_TKD))
                self.copies[key] = (k, v)
            q_NKD = q_NKD if self.pieces == 1 else q_NKD.repeat(self.pieces, 1, 1)
            results = self.call.forward_packed(q_NKD, *self.copies[key], scale)
            return list(zip(*(x.chunk(self.pieces) for x in results), strict=True))
        k_MKD, v_MKD = k_TKD[self.key_rows], v_TKD[self.key_rows]
        if self.by_cudnn:
            return in_pieces(q_NKD, k_MKD, v_MKD, scale)
        return [dense(q_NKD, k_MKD, v_MKD, scale)]


def dense(q_NKD: Tensor, k_MKD: Tensor, v_MKD: Tensor, scale: float) -> Partial:
    """Attention of all queries over all keys."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q_NKD, k_MKD, v_MKD))
    out, lse = flash(q, k, v, scale)
    return out[0].transpose(0, 1), lse[0].transpose(0, 1)


def in_pieces(q_NKD: Tensor, k_MKD: Tensor, v_MKD: Tensor, scale: float) -> list[Partial]:
    """Attention of all queries over all keys in pieces by cuDNN, and over the rest of the keys."""
    rest = cudnn.PIECES * cudnn.piece(len(k_MKD))
    if not rest or (pieces := cudnn.forward_in_pieces(q_NKD, k_MKD, v_MKD, scale)) is None:
        return [dense(q_NKD, k_MKD, v_MKD, scale)]
    parts = list(zip(*(x.unbind() for x in pieces), strict=True))
    return parts + ([dense(q_NKD, k_MKD[rest:], v_MKD[rest:], scale)] if rest < len(k_MKD) else [])


def merge(outs: Sequence[Tensor], lses: Sequence[Tensor], groups: int) -> Tensor:
    """Merges partial attentions of the same queries, outputs (F, K, D) and log-sum-exps (F, K), in no less
    than float32, and unfolds them: (R, H, D)."""
    weights = torch.softmax(torch.stack(tuple(lses)), 0).unsqueeze(-1).unbind()
    merged = outs[0] * weights[0]
    for out, weight in zip(outs[1:], weights[1:], strict=True):
        merged = merged.addcmul_(out, weight)
    return merged.to(outs[0].dtype).unflatten(0, (-1, groups)).transpose(1, 2).flatten(1, 2)


def _indices(rows: slice | Tensor, device: torch.device) -> Tensor:
    return torch.arange(rows.start, rows.stop, device=device) if isinstance(rows, slice) else rows
