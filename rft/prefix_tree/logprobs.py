"""Log-probs of every completion of a tree: the same numbers and gradients as one row at a time, with each
shared token forwarded once and logits only where a completion token is predicted, a chunk at a time.

The model runs its ordinary forward (of whatever wraps it: DDP, DeepSpeed, FSDP, PEFT), with the positions
that predict as its `logits_to_keep`. For the time of that call its output head returns two numbers per
position, log-prob and entropy, instead of the vocabulary; a chunk's logits are computed again in the backward
pass, so the table of positions x vocabulary never exists.

Shapes: N pairs of (position, label), V vocabulary, B rows, C completion columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_utils import unwrap_model

from rft.errors import RecipeError
from rft.prefix_tree import support
from rft.prefix_tree.attention import Plan, check_enabled, forward_kwargs
from rft.prefix_tree.layout import TokenRows, Tree, grow, sort_groups, sort_rows
from rft.prefix_tree.sequence_parallel import Group, Shard, add_up

CHUNK_LOGITS = 2**27
"""Logits that exist at a time: half a GiB in float32, the scores of 883 positions under a vocabulary of
151,936."""


def tree_logps(
    model: nn.Module,
    tree: Tree,
    temperature: float = 1.0,
    compute_entropy: bool = False,
    chunk: int | None = None,
    group: Group | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs, and entropies if asked, of the completion tokens of a tree.

    Args:
        model: a causal language model after `attention.enable`, wrapped for training or not.
        tree: its rows, on the model's device.
        temperature: divisor of the logits.
        compute_entropy: whether to return entropies (nats; with gradient, like the log-probs).
        chunk: number of positions whose logits exist at a time; by default `CHUNK_LOGITS` / vocabulary.
        group: process group over which the tree's tokens are spread (`sequence_parallel`). All its ranks call
            this together, with the same tree, and each gets the complete tables.

    Returns:
        (logps_BC, entropies_BC), row b's completion from column 0, zeros after it, C the tree's width; the
        shape of TRL's `_get_per_token_logps_and_entropies` for completions padded to the right. float32
        (float64 for a float64 model).

    Raises:
        ModelError: If `attention.enable` was not called, a row is longer than the model's positions, or a
            log-prob is NaN.
    """
    bare: Any = unwrap_model(model)
    check_enabled(bare)
    support.check_length(bare, tree.longest_row)
    if group is None:
        kwargs = forward_kwargs(tree.tokens_T, tree.positions_T, Plan(tree))
        tables_SBC = _scored(model, bare, tree, kwargs, temperature, compute_entropy, chunk)
    else:
        shard = Shard(tree, group)
        kwargs = forward_kwargs(shard.tokens_T, shard.positions_T, shard.plan)
        tables_SBC = add_up(_scored(model, bare, shard, kwargs, temperature, compute_entropy, chunk), group)
    support.check_finite(tables_SBC[0])
    return tables_SBC[0], tables_SBC[1] if compute_entropy else None


def _scored(
    model: nn.Module,
    bare: Any,
    tree: Tree | Shard,
    kwargs: dict[str, Any],
    temperature: float,
    entropy: bool,
    chunk: int | None,
) -> Tensor:
    """The tables (1 or 2, B, C) of log-probs and, if asked, entropies, from a forward with these keywords."""
    chunk = chunk or max(1, CHUNK_LOGITS // bare.config.get_text_config().vocab_size)
    with _scoring_head(bare.get_output_embeddings(), tree.labels_N, temperature, entropy, chunk):
        scores_NS = model(**kwargs, logits_to_keep=tree.slots_N).logits.squeeze(0)
    return torch.stack(
        [
            x_N.new_zeros(tree.shape).index_put((tree.rows_N, tree.columns_N), x_N)
            for x_N in scores_NS.unbind(1)
        ]
    )


@contextmanager
def _scoring_head(
    head: nn.Module, labels_N: Tensor, temperature: float, entropy: bool, chunk: int
) -> Iterator[None]:
    """Makes the output head return (1, N, 1 or 2) scores of these labels: log-prob, and entropy if asked.

    The head module itself is still called, so hooks on it (ZeRO-3 and FSDP gather its weight in one) run as
    always.
    """
    project, replaced = head.forward, head.__dict__.get("forward")

    def score(hidden_ND: Tensor, labels_N: Tensor) -> Tensor:
        return _Scores.apply(project(hidden_ND), labels_N, temperature, entropy)

    def forward(hidden_1ND: Tensor) -> Tensor:
        hidden_ND = hidden_1ND.squeeze(0)
        if len(labels_N) <= chunk:
            return torch.stack([score(hidden_ND, labels_N)])
        pieces = zip(hidden_ND.split(chunk), labels_N.split(chunk), strict=True)
        return torch.stack([torch.cat([checkpoint(score, h, y, use_reentrant=False) for h, y in pieces])])

    head.forward = forward
    try:
        yield
    finally:
        if replaced is None:
            del head.forward
        else:
            head.forward = replaced


class _Scores(torch.autograd.Function):
    """Log-probs and entropies of labels under softmax(logits / temperature), without a vocabulary-sized
    graph: one such tensor is kept, the log-probs of all tokens."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, labels_N: Tensor, temperature: float, entropy: bool) -> Tensor:
        exact = torch.promote_types(logits_NV.dtype, torch.float32)
        all_NV = torch.log_softmax(logits_NV.to(exact) / temperature, -1)
        scores = [all_NV.gather(1, labels_N[:, None]).squeeze(1)]
        if entropy:
            scores.append(-(all_NV.exp() * all_NV).sum(-1))
        scores_NS = torch.stack(scores, 1)
        ctx.save_for_backward(all_NV, labels_N, scores_NS)
        ctx.temperature, ctx.dtype = temperature, logits_NV.dtype
        return scores_NS

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grads_NS: Tensor) -> tuple[Tensor | None, ...]:
        all_NV, labels_N, scores_NS = ctx.saved_tensors
        grads_NS = grads_NS / ctx.temperature
        if scores_NS.shape[1] == 2:  # dH/dlogit_v = -p_v (log p_v + H)
            weights_NV = -(grads_NS[:, :1] + grads_NS[:, 1:] * (all_NV + scores_NS[:, 1:]))
        else:
            weights_NV = -grads_NS[:, :1]
        dlogits_NV = all_NV.exp().mul_(weights_NV)
        dlogits_NV.scatter_add_(1, labels_N[:, None], grads_NS[:, :1])
        return dlogits_NV.to(ctx.dtype), None, None, None


def plain_logps(
    model: nn.Module,
    rows: TokenRows,
    prompt_lengths: Sequence[int],
    temperature: float = 1.0,
    compute_entropy: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Computes what `tree_logps` returns, one row at a time with nothing shared: the path for rows whose
    sharing cannot pay, and the reference for tests and benchmarks of the tree. Arguments, result and errors
    as in `tree_logps`.
    """
    bare: Any = unwrap_model(model)
    width = max((len(row) - prompt for row, prompt in zip(rows, prompt_lengths, strict=True)), default=0)
    tables = []
    for row, prompt in zip(rows, prompt_lengths, strict=True):
        support.check_length(bare, len(row))
        tree = Tree([row], [prompt], width=width, device=next(bare.parameters()).device)
        kwargs = {"input_ids": tree.tokens_T[None], "use_cache": False}
        tables.append(_scored(model, bare, tree, kwargs, temperature, compute_entropy, chunk))
    logps_BC, *entropies_BC = torch.cat(tables, 1)
    support.check_finite(logps_BC)
    return logps_BC, entropies_BC[0] if compute_entropy else None


def split(
    rows: TokenRows, prompt_lengths: Sequence[int], max_tree_tokens: int, groups: Sequence[int] | None = None
) -> list[list[int]]:
    """Splits row numbers into groups whose trees have at most `max_tree_tokens` tokens each: one group if all
    fit, otherwise cut between questions (rows of the same prompt), and inside a question only if it is too
    large by itself. `groups` as in `Tree`.

    Raises:
        RecipeError: If a single row has more tokens than the budget.
    """
    arrays = [np.asarray(row, dtype=np.int64) for row in rows]
    order, shared = sort_rows(arrays) if groups is None else sort_groups(arrays, prompt_lengths, groups)
    lengths = [len(arrays[r]) for r in order]
    if lengths and max(lengths) > max_tree_tokens:
        raise RecipeError(
            f"max_tree_tokens is {max_tree_tokens}, but one row (history, question and completion) has"
            f" {max(lengths)} tokens: raise max_tree_tokens, or shorten prompts or completions"
        )

    def fits(low: int, high: int) -> bool:
        nodes, _, _ = grow(lengths[low:high], [0, *shared[low + 1 : high]])
        return sum(node.end - node.start for node in nodes) <= max_tree_tokens

    prompts = [prompt_lengths[r] for r in order]
    edges = [i for i in range(len(order)) if i == 0 or prompts[i] != prompts[i - 1] or shared[i] < prompts[i]]
    spans: list[tuple[int, int]] = []
    for low, high in zip(edges, [*edges[1:], len(order)], strict=True):
        steps = [(low, high)] if fits(low, high) else [(i, i + 1) for i in range(low, high)]
        for first, last in steps:
            if spans and fits(spans[-1][0], last):
                spans[-1] = (spans[-1][0], last)
            else:
                spans.append((first, last))
    return [sorted(order[low:high]) for low, high in spans]
