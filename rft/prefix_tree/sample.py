"""Sampling with the keys and values of a shared prefix stored once: the prompts are prefilled as a tree, and
every row keeps only the keys and values of what it has sampled itself.

A decode step is one forward of all living rows, one token each, packed like the tokens of a tree. Its
attention is again partial and merged by log-sum-exp (cascade inference): the rows under a node attend the
node's keys in one dense call, and each row its own suffix. The trainer's forward is the same function of the
same tokens, so the log-probs returned here are the trainer's.

Shapes: R living rows, T tokens of the prompts' tree, H query heads in K groups of g, D head size, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rft.prefix_tree import support
from rft.prefix_tree.attention import Plan, alike, forward_kwargs, merge_, own_length
from rft.prefix_tree.kernels import Span, call, flash, rows_of
from rft.prefix_tree.layout import TokenRows, Tree

LONG = 1024
"""Nodes of at least this many tokens are attended in place; the keys of shorter ones are copied side by side,
for one call per level."""


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: TokenRows,
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """One completion for every prompt.

    Args:
        model: a causal language model after `attention.enable`; under ZeRO-3, with its weights gathered.
        prompts: token ids; a prompt is repeated for each of its completions.
        max_new_tokens: maximum number of tokens of a completion.
        eos_ids: tokens that end a completion; the end token is part of it.
        temperature: divisor of the logits; 0 takes the most likely token.
        top_p, top_k, min_p: as in transformers; 1, 0 and None leave the distribution alone.
        generator: draws the tokens; torch's global one by default.

    Returns:
        (completions, logps): token ids, and of each token the log-prob under softmax(logits / temperature)
        before top-p, top-k and min-p, which is what `tree_logps` gives at this temperature (temperature 0: as
        at 1).

    Raises:
        ModelError: If a prompt with its completion can be longer than the model's positions, or a log-prob is
            NaN.
    """
    bare: Any = extract_model_from_parallel(model)
    support.check_length(bare, max(map(len, prompts), default=0) + max_new_tokens)
    known = {id(prompt): np.asarray(prompt, dtype=np.int64) for prompt in prompts}
    groups = [id(prompt) for prompt in prompts]  # a prompt that is repeated is one list
    tree = Tree([known[group] for group in groups], groups=groups, device=next(bare.parameters()).device)
    # rows under a node: one slice
    rows = torch.tensor(sorted(range(len(prompts)), key=tree.leaves.__getitem__))
    tokens_BC = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long)
    logps_BC = torch.zeros(len(prompts), max_new_tokens)
    lengths_B = torch.zeros(len(prompts), dtype=torch.long)
    if not len(prompts) or not max_new_tokens:
        return [[] for _ in prompts], [[] for _ in prompts]

    prefill = Prefill(tree)
    last_R = torch.tensor([tree.nodes[tree.leaves[row]].end - 1 for row in rows.tolist()], device=tree.device)
    logits_RV = model(
        **forward_kwargs(tree.tokens_T, tree.positions_T, prefill), logits_to_keep=last_R
    ).logits[0]
    positions_R = tree.positions_T[last_R]
    decode = Decode(prefill, [tree.leaves[row] for row in rows.tolist()], max_new_tokens)
    processors = _processors(top_p, top_k, min_p)
    ends = torch.tensor(list(eos_ids), device=tree.device)
    in_step = _is_sharded(bare)

    for step in range(max_new_tokens):
        tokens_R, logps_R = _choose(logits_RV, temperature, processors, generator)
        living = ~torch.isin(tokens_R, ends)
        if len(rows):
            tokens_BC[rows, step], logps_BC[rows, step] = tokens_R.cpu(), logps_R.float().cpu()
            lengths_B[rows] = step + 1
        if not len(rows) or not living.any():
            rows, living = rows[:0], torch.ones_like(living)
        if step + 1 == max_new_tokens or _everywhere(not len(rows), in_step, tree.device):
            break
        if not living.all():
            decode.keep(living)
            rows, tokens_R, positions_R = rows[living.cpu()], tokens_R[living], positions_R[living]
        positions_R = positions_R + 1
        logits_RV = model(**forward_kwargs(tokens_R, positions_R, decode)).logits[0]
        decode.length += 1
    ends_B = lengths_B.tolist()
    return [tokens_BC[b, :n].tolist() for b, n in enumerate(ends_B)], [
        logps_BC[b, :n].tolist() for b, n in enumerate(ends_B)
    ]


def _is_sharded(model: nn.Module) -> bool:
    """Whether a forward waits for the other processes, since each holds a part of the weights (FSDP2,
    ZeRO-3)."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return several and (
        any(isinstance(module, FSDPModule) for module in model.modules())
        or any(hasattr(p, "ds_id") for p in model.parameters())
    )


def _everywhere(done: bool, in_step: bool, device: torch.device) -> bool:
    """Whether this process has no row left, or, if processes run in step, whether none of them has. A process
    that ends before the others continues to forward its last rows with them, and discards what it draws."""
    if not in_step:
        return done
    everyone = torch.tensor(int(done), device=device)
    dist.all_reduce(everyone, dist.ReduceOp.MIN)
    return bool(everyone)


def _processors(top_p: float, top_k: int, min_p: float | None) -> LogitsProcessorList:
    """In the order in which transformers' generate applies them."""
    warpers: list[tuple[Any, Any]] = [
        (top_k, TopKLogitsWarper),
        (top_p if top_p < 1 else None, TopPLogitsWarper),
        (min_p, MinPLogitsWarper),
    ]
    return LogitsProcessorList([warper(value) for value, warper in warpers if value])


def _choose(
    logits_RV: Tensor, temperature: float, processors: LogitsProcessorList, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """A token for every row, and its log-prob before the processors."""
    logits_RV = logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32))
    all_RV = torch.log_softmax(logits_RV / (temperature or 1.0), -1)
    support.check_finite(all_RV)
    if temperature == 0:
        tokens_R = logits_RV.argmax(-1)
    else:
        previous_ids: Any = None  # none of the processors looks at the tokens before
        probs_RV = torch.softmax(processors(previous_ids, all_RV), -1)
        tokens_R = torch.multinomial(probs_RV, 1, generator=generator).squeeze(1)
    return tokens_R, all_RV.gather(1, tokens_R[:, None]).squeeze(1)


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

    Grouped queries are folded into rows, (R, H, D) -> (R * g, K, D), so that a shared key is read once for
    all its query heads. `length` is how many tokens each suffix has; every layer of the next forward appends
    one. `most` is the maximum length of a suffix; no more room is allocated.
    """

    def __init__(self, prefill: Prefill, leaves: list[int], most: int):
        self.prefill, self.leaves, self.length, self.most = prefill, leaves, 0, most
        self.suffixes: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> keys and values (R, K, room, D)
        self.parts: list[Part] = []

    def keep(self, living_R: Tensor) -> None:
        """Drops the rows that have ended."""
        # the GPU syncs once; every indexing by booleans would count again
        living_N = living_R.nonzero().squeeze(1)
        self.leaves = [self.leaves[row] for row in living_N.tolist()]
        self.suffixes = {
            layer: (keys.index_select(0, living_N), values.index_select(0, living_N))
            for layer, (keys, values) in self.suffixes.items()
        }
        self.parts = []

    def attend(self, module: nn.Module, q_RHD: Tensor, k_RKD: Tensor, v_RKD: Tensor, scale: float) -> Tensor:
        """One layer's attention (R, H, D) of the rows' next tokens."""
        layer: int = module.layer_idx  # type: ignore[assignment]
        groups = q_RHD.shape[1] // k_RKD.shape[1]
        self.parts = self.parts or self._arrange(groups)
        keys, values = (x[:, :, : self.length + 1] for x in self._append(layer, k_RKD, v_RKD))
        q_RKgD = q_RHD.unflatten(1, (-1, groups))
        out_RKgD, lse_RKg = flash(q_RKgD, keys, values, scale)
        exact = torch.promote_types(q_RHD.dtype, torch.float32)
        q_FKD, out_FKD, lse_FK = _fold(q_RKgD), _fold(out_RKgD).to(exact), _fold(lse_RKg)
        for part in self.parts:
            merge_(
                out_FKD,
                lse_FK,
                part.query_rows,
                *part.forward(q_FKD[part.query_rows], layer, *self.prefill.cache[layer], scale),
            )
        return out_FKD.unflatten(0, (-1, groups)).transpose(1, 2).flatten(1, 2).to(q_RHD.dtype)

    def _append(self, layer: int, *tokens_RKD: Tensor) -> tuple[Tensor, Tensor]:
        grown = self.suffixes.get(layer) or [x.unsqueeze(2)[:, :, :0] for x in tokens_RKD]
        if grown[0].shape[2] == self.length:
            room = min(max(32, self.length), self.most - self.length)  # doubling: copied rarely
            grown = [nn.functional.pad(x, (0, 0, 0, room)) for x in grown]
        for x, token in zip(grown, tokens_RKD, strict=True):
            x[:, :, self.length] = token
        self.suffixes[layer] = (grown[0], grown[1])
        return self.suffixes[layer]

    def _arrange(self, groups: int) -> list[Part]:
        """Assigns folded rows to the nodes they attend, level by level."""
        tree, parts = self.prefill.tree, []
        starts = [tree.nodes[leaf].start for leaf in self.leaves]
        spans = {}
        for node in tree.nodes:
            under = [r for r, start in enumerate(starts) if node.start <= start < node.stop]
            if under:
                spans[node] = (under[0] * groups, (under[-1] + 1) * groups)
        # few queries, no backward: on CUDA only the calls cost
        padded = () if tree.device.type == "cuda" else (own_length,)
        for level in sorted({node.level for node in spans}):
            nodes = [node for node in spans if node.level == level]
            short = alike([node for node in nodes if own_length(node) < LONG], tree.device, *padded)
            for batch in [[node] for node in nodes if own_length(node) >= LONG] + short:
                parts.append(
                    Part(
                        [spans[node] for node in batch],
                        [(node.start, node.end) for node in batch],
                        tree.device,
                    )
                )
        return parts


class Part:
    """Folded rows attending nodes of the prompts' tree: one node in place, or several with their keys copied
    side by side, once."""

    def __init__(self, queries: list[Span], keys: list[Span], device: torch.device):
        self.call = call(queries, keys, False, device) if len(keys) > 1 else None
        self.query_rows = rows_of(queries, device)
        self.key_rows = rows_of(keys, device)
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(
        self, q_NKD: Tensor, layer: int, k_TKD: Tensor, v_TKD: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Outputs (N, K, D) and log-sum-exps (N, K)."""
        if self.call is not None:
            if layer not in self.copies:
                self.copies[layer] = (k_TKD[self.key_rows], v_TKD[self.key_rows])
            return self.call.forward(q_NKD, *self.copies[layer], scale)
        q, k, v = (x.transpose(0, 1)[None] for x in (q_NKD, k_TKD[self.key_rows], v_TKD[self.key_rows]))
        out, lse = flash(q, k, v, scale)
        return out[0].transpose(0, 1), lse[0].transpose(0, 1)


def _fold(x_RKg: Tensor) -> Tensor:
    """(R, K, g, ...) -> (R * g, K, ...)."""
    return x_RKg.transpose(1, 2).flatten(0, 1)
