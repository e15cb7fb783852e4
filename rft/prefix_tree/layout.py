"""The layout of a tree of rows: every token of a prefix that rows share is stored once, and following a row's
path from its root gives exactly that row.

Nodes are packed depth-first, so a node's descendants are one contiguous slice of the packed tokens (T of
them):

    rows                       tree                                    packed
    h h h q q a a              h h h ─┬─ q q ─┬─ a a                   h h h q q a a b b b r r c
    h h h q q b b b                   │       └─ b b b                 0 1 2 3 4 5 6 5 6 7 3 4 5    positions
    h h h r r c                       └─ r r c

A forest is allowed: rows without a common prefix have different roots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

MIN_SAVING = 32
"""Tokens a shared node must save to be worth a level of its own: a level costs a few kernel calls in every
layer."""


TokenRows = Sequence[Sequence[int] | np.ndarray]
"""Rows of token ids."""


@dataclass(frozen=True)
class Node:
    """Own tokens are the packed slots [start, end), its descendants' the slots [end, stop). `first` is the
    position of its first token in any row through it, `parent` the index of the node before it (-1: none),
    `level` the number of nodes above it."""

    start: int
    end: int
    stop: int
    first: int
    parent: int
    level: int


class Tree:
    """Rows of token ids as a packed tree.

    Args:
        rows: one sequence of token ids per row, prompt and completion together, in any order; duplicates and
            empty rows allowed.
        prompt_lengths: how many of each row's tokens are its prompt, at least 1 if a completion follows,
            since each completion token is predicted from the token before it. None: the rows are prompts
            only.
        groups: an id per row, equal for rows that are known to have the same prompt; no token of these
            prompts is then compared. None: nothing is known.
        min_saving: a shared prefix that saves fewer tokens than this is repeated instead (1: share
            everything).
        width: columns of the tables of log-probs, at least the longest completion (the default).
        device: device of the tensors.

    Attributes:
        nodes: the `Node`s, depth-first.
        tokens_T, positions_T: the packed token ids and their position in their rows.
        slots_N, labels_N: for every completion token, row after row, the slot that predicts it, and the
            token.
        rows_N, columns_N: for every completion token its row and its place in the completion.
        leaves: for every row the index of its last node (-1 for an empty row).
    """

    def __init__(
        self,
        rows: TokenRows,
        prompt_lengths: Sequence[int] | None = None,
        *,
        groups: Sequence[int] | None = None,
        min_saving: int = MIN_SAVING,
        width: int | None = None,
        device: torch.device | str = "cpu",
    ):
        arrays = [np.asarray(row, dtype=np.int64) for row in rows]
        lengths = [len(array) for array in arrays]
        prompts = lengths if prompt_lengths is None else [int(length) for length in prompt_lengths]
        assert len(prompts) == len(arrays), "one prompt length per row"
        assert all(p <= n and (p > 0 or n == 0) for p, n in zip(prompts, lengths, strict=True)), (
            "prompts of 1..len(row) tokens"
        )

        order, shared = sort_rows(arrays) if groups is None else sort_groups(arrays, prompts, groups)
        self.nodes, owners, leaves = grow([lengths[r] for r in order], shared, min_saving)
        self.leaves = [0] * len(arrays)
        for place, row in enumerate(order):
            self.leaves[row] = leaves[place]

        owned = [(arrays[order[owner]], node) for owner, node in zip(owners, self.nodes, strict=True)]
        tokens = [array[node.first : node.first + node.end - node.start] for array, node in owned]
        positions = [np.arange(node.first, node.first + node.end - node.start) for node in self.nodes]
        pairs = [
            self._pairs(array, prompt, leaf)
            for array, prompt, leaf in zip(arrays, prompts, self.leaves, strict=True)
        ]
        completions = [n - p for n, p in zip(lengths, prompts, strict=True)]

        self.shape = (len(arrays), max(completions, default=0) if width is None else width)
        assert self.shape[1] >= max(completions, default=0), "a completion is longer than the table is wide"
        self.row_tokens = sum(lengths)
        self.longest_row = max(lengths, default=0)
        self.device = torch.device(device)
        self.tokens_T = self._tensor(tokens)
        self.positions_T = self._tensor(positions)
        self.slots_N = self._tensor([slots for slots, _ in pairs])
        self.labels_N = self._tensor([labels for _, labels in pairs])
        self.rows_N = self._tensor([np.full(n, row) for row, n in enumerate(completions)])
        self.columns_N = self._tensor([np.arange(n) for n in completions])

    @classmethod
    def from_padded(
        cls,
        ids_BL: torch.Tensor,
        mask_BL: torch.Tensor,
        completion_columns: int,
        *,
        min_saving: int = MIN_SAVING,
    ) -> Tree:
        """The tree of padded rows, prompts left-padded and completions right-padded, as in TRL's trainers.

        Args:
            ids_BL, mask_BL: token ids, and 1 where a token counts.
            completion_columns: number of columns of completions, the last ones (TRL's `logits_to_keep`); also
                the tree's `width`.
        """
        rows, prompts = unpad(ids_BL, mask_BL, completion_columns)
        return cls(rows, prompts, min_saving=min_saving, width=completion_columns, device=ids_BL.device)

    @property
    def token_ratio(self) -> float:
        """Tokens of the rows divided by tokens of the tree; 1.0 if sharing saves nothing."""
        return self.row_tokens / max(1, len(self.tokens_T))

    def _pairs(self, row: np.ndarray, prompt: int, leaf: int) -> tuple[np.ndarray, np.ndarray]:
        """The slots that predict the row's completion, and the completion, by walking from the row's last
        node upwards."""
        first, last = max(prompt - 1, 0), len(row) - 1  # the positions that predict: [first, last)
        slots = [np.empty(0, dtype=np.int64)]
        while leaf >= 0:
            node = self.nodes[leaf]
            low, high = max(node.first, first), min(node.first + node.end - node.start, last)
            if low < high:
                slots.append(np.arange(low, high) + node.start - node.first)
            if node.first <= first:
                break
            leaf = node.parent
        return np.concatenate(slots[::-1]), row[prompt:]

    def _tensor(self, parts: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int64), *parts])).to(self.device)


def unpad(
    ids_BL: torch.Tensor, mask_BL: torch.Tensor, completion_columns: int
) -> tuple[list[np.ndarray], list[int]]:
    """The rows and prompt lengths of padded rows; arguments as `Tree.from_padded`'s."""
    ids, mask = ids_BL.cpu().numpy(), mask_BL.cpu().numpy().astype(bool)
    split = ids.shape[1] - completion_columns
    assert (mask[:, split + 1 :] <= mask[:, split:-1]).all(), "completions are right-padded"
    return [row[keep] for row, keep in zip(ids, mask, strict=True)], mask[:, :split].sum(1).tolist()


def sort_rows(rows: list[np.ndarray]) -> tuple[list[int], list[int]]:
    """Rows in lexicographic order, so that rows with a common prefix are neighbours.

    Returns:
        The row numbers in that order, and for each place the length of the prefix that the row there has in
        common with the one before (0 for the first).
    """
    # big-endian: the order of the bytes is the order of the token ids
    keys = [row.astype(">i4").tobytes() for row in rows]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    shared = [common(rows[a], rows[b]) for a, b in zip(order, order[1:], strict=False)]
    return order, [0] * min(1, len(order)) + shared


def sort_groups(
    rows: list[np.ndarray], prompts: Sequence[int], groups: Sequence[int]
) -> tuple[list[int], list[int]]:
    """`sort_rows` of rows of which those of a group have the same prompt: one prompt of every group is
    sorted, and the completions of every group."""
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    heads = [rows[of_group[0]][: prompts[of_group[0]]] for of_group in members.values()]
    places, shared_heads = sort_rows(heads)
    if any(shared_heads[i] == len(heads[a]) for i, a in enumerate(places[:-1], 1)):
        return sort_rows(rows)  # a prompt begins another one, so that the rows of both mix
    order, shared = [], []
    for place, shared_head in zip(places, shared_heads, strict=True):
        of_group = list(members.values())[place]
        inner, shared_tails = sort_rows([rows[row][prompts[row] :] for row in of_group])
        order += [of_group[i] for i in inner]
        shared += [shared_head, *(len(heads[place]) + n for n in shared_tails[1:])]
    return order, shared


def common(one: np.ndarray, other: np.ndarray) -> int:
    """The length of the prefix that two rows have in common."""
    n = min(len(one), len(other))
    differs = one[:n] != other[:n]
    return int(differs.argmax()) if differs.any() else n


def grow(
    lengths: Sequence[int], shared: Sequence[int], min_saving: int = MIN_SAVING
) -> tuple[list[Node], list[int], list[int]]:
    """The nodes of sorted rows, from their lengths and the prefix each shares with the row before; no token
    is looked at.

    Returns:
        The nodes depth-first, for each node a row (by its place in the order) that owns its tokens, and for
        each row its last node.
    """
    spans: list[tuple[int, int, int, int]] = []  # first, length, parent, level
    owners: list[int] = []
    leaves = [-1] * len(lengths)
    todo = [(0, len(lengths), 0, -1, 0)] if lengths else []
    while todo:  # rows [low, high) agree on [0, first); a node for them goes under parent
        low, high, first, parent, level = todo.pop()
        agree = min([lengths[low], *shared[low + 1 : high]])
        cuts = [i for i in range(low + 1, high) if shared[i] == agree]
        groups = list(zip([low, *cuts], [*cuts, high], strict=True))
        # sorted: each such row is a group of its own, in front
        ended = [a for a, b in groups if lengths[a] == agree]
        groups = groups[len(ended) :]
        branches = len(groups) + bool(ended)
        own = agree - first
        if own and (branches == 1 or own * (branches - 1) >= min_saving):
            spans.append((first, own, parent, level))
            owners.append(low)
            first, parent, level = agree, len(spans) - 1, level + 1
        # not worth a node: the branches repeat it, and the rows that end here get it for themselves
        elif own and ended:
            spans.append((first, own, parent, level))
            owners.append(low)
            leaves[ended[0]] = len(spans) - 1
        for row in ended:
            leaves[row] = leaves[ended[0]] if leaves[ended[0]] >= 0 else parent
        todo += [(a, b, first, parent, level) for a, b in reversed(groups)]

    starts = np.concatenate([[0], np.cumsum([own for _, own, _, _ in spans])]).astype(int).tolist()
    stops = starts[1:]
    for node in reversed(range(len(spans))):
        if spans[node][2] >= 0:
            stops[spans[node][2]] = max(stops[spans[node][2]], stops[node])
    nodes = [
        Node(starts[i], starts[i + 1], stops[i], first, parent, level)
        for i, (first, _, parent, level) in enumerate(spans)
    ]
    return nodes, owners, leaves
