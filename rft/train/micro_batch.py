"""Turns as the rows of a micro-batch: padded tensors, and the trees that are forwarded instead of the rows.

Invariant: a micro-batch is its tensors. Its parts follow from them and are found once, when it is made or
recalled from a checkpoint; old, reference and new log-probs all use the same trees.

Shapes: B rows, P prompt columns (padded on the left), C completion columns (padded on the right).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rft.prefix_tree import support
from rft.prefix_tree.layout import Tree, unpad
from rft.prefix_tree.logprobs import split
from rft.train.rollout import Gather, Turn

Tensors = dict[str, Tensor]


@dataclass
class Part:
    """Rows of a micro-batch that are forwarded together.

    Attributes:
        rows_P: The rows.
        tensors: Their tensors, as in the micro-batch.
        tree: Their tree; None if prefix sharing is off.
        pays: Whether the tree is forwarded, rather than row after row.
        rows: Most rows that a rank has in this part.
    """

    rows_P: Tensor
    tensors: Tensors
    tree: Tree | None = None
    pays: bool = False
    rows: int = 0


@dataclass
class MicroBatch:
    """A micro-batch.

    Attributes:
        tensors: prompt_ids_BP, prompt_mask_BP, completion_ids_BC, completion_mask_BC; weights_BC, the weight
            of every token in the loss; advantages_B; groups_B, equal for rows with the same prompt. If known,
            sampling_, old_ and ref_per_token_logps_BC, and importance_sampling_ratio. Without a row
            dimension: num_items_in_batch, the sum of all weights of a generation; num_rows, its mean number
            of rows per micro-batch; weight, this micro-batch's sum of weights.
        parts: Its rows in parts that fit in `max_tree_tokens`.
    """

    tensors: Tensors
    parts: list[Part]

    def __len__(self) -> int:
        return len(self.tensors["advantages"])

    def add(self, name: str, table_BX: Tensor) -> None:
        """Adds a tensor, to the parts too."""
        self.tensors[name] = table_BX
        for part in self.parts:
            part.tensors[name] = table_BX[part.rows_P]


def pack(turns: Sequence[Turn], pad_token_id: int) -> Tensors:
    """Returns the tensors of turns, one row each."""
    shared = {id(turn.prompt): turn.prompt for turn in turns}  # turns with one prompt hold one list
    groups = {key: group for group, key in enumerate(shared)}
    ids_of = {key: torch.tensor(prompt) for key, prompt in shared.items()}
    prompts = [ids_of[id(turn.prompt)] for turn in turns]
    completions = [torch.tensor(turn.completion) for turn in turns]
    weights = [torch.full(ids.shape, turn.weight) for turn, ids in zip(turns, completions, strict=True)]
    tensors = {
        "prompt_ids": pad_sequence(prompts, True, pad_token_id, "left"),
        "prompt_mask": pad_sequence([torch.ones_like(ids) for ids in prompts], True, 0, "left"),
        "completion_ids": pad_sequence(completions, True, pad_token_id),
        "completion_mask": pad_sequence([torch.ones_like(ids) for ids in completions], True),
        "weights": pad_sequence(weights, True),
        "advantages": torch.tensor([turn.advantage for turn in turns]),
        "groups": torch.tensor([groups[id(turn.prompt)] for turn in turns]),
    }
    known = [turn.logps for turn in turns if turn.logps is not None]
    if len(known) == len(turns):  # an engine that cannot tell a token's log-prob says None
        logps = [torch.tensor([math.nan if x is None else x for x in of_turn]) for of_turn in known]
        tensors["sampling_per_token_logps"] = pad_sequence(logps, True)
    return tensors


def grow(tensors: Tensors, shares: bool, max_tree_tokens: int | None, gather: Gather) -> MicroBatch:
    """Finds the parts of a micro-batch and their trees.

    Args:
        tensors: The tensors of a micro-batch.
        shares: Whether rows share prefixes at all.
        max_tree_tokens: Most tokens of a tree; None: one tree.
        gather: Concatenates lists over all ranks, which have the same number of parts and decide alike
            whether trees pay.
    """
    B, device = len(tensors["advantages"]), tensors["advantages"].device
    if not shares:
        rows_B = torch.arange(B, device=device)
        return MicroBatch(tensors, [Part(rows_B, dict(tensors), rows=max(gather([B])))])
    ids_BL = torch.cat([tensors["prompt_ids"], tensors["completion_ids"]], 1)
    mask_BL = torch.cat([tensors["prompt_mask"], tensors["completion_mask"]], 1)
    width = tensors["completion_ids"].shape[1]
    rows, prompts = unpad(ids_BL, mask_BL, width)
    groups = tensors["groups"].tolist()
    members = [list(range(B))]
    if max_tree_tokens is not None:
        members = split(rows, prompts, max_tree_tokens, groups)
        most = max(gather([len(members)]))
        while len(members) < most:
            widest = max(members, key=len)
            members.remove(widest)
            members += [widest[: len(widest) // 2], widest[len(widest) // 2 :]]
    parts, sizes = [], []
    for of_part in members:
        rows_P = torch.tensor(of_part, device=device)
        whole = len(members) == 1
        own = {name: x if whole or not x.dim() else x[rows_P] for name, x in tensors.items()}
        tree = Tree(
            [rows[b] for b in of_part],
            [prompts[b] for b in of_part],
            groups=[groups[b] for b in of_part],
            width=width,
            device=device,
        )
        parts.append(Part(rows_P, own, tree))
        sizes.append((len(of_part), tree.token_ratio))
    of_ranks = gather([sizes])
    for i, part in enumerate(parts):
        part.rows = max(of_rank[i][0] for of_rank in of_ranks)
        part.pays = support.pays(max(of_rank[i][1] for of_rank in of_ranks))
    return MicroBatch(tensors, parts)
