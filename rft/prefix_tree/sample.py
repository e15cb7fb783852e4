"""Sampling with the keys and values of a shared prefix stored once: the prompts are prefilled as a tree, and
every row keeps only the keys and values of what it has sampled itself.

A decode step takes one token of every row through the model, draws the next one, and notes on the device
which rows have ended or are not finite. Its shapes do not change, and the host reads none of its results
(graph.py captures it); only every `Pace.look` steps the host looks at the rows, and then stops, fails, or
drops those that have ended. The trainer's forward is the same function of the same tokens, so the log-probs
returned here are the trainer's. The ranks of a group can share a rollout (shared_rollout.py).

Shapes: B prompts, C new tokens at most, R rows in a step, T tokens of the prompts' tree, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.modeling_utils import unwrap_model

from rft.errors import ModelError
from rft.prefix_tree import support
from rft.prefix_tree.attention import check_enabled
from rft.prefix_tree.forward import forward_of
from rft.prefix_tree.graph import Replayed
from rft.prefix_tree.layout import TokenRows, Tree
from rft.prefix_tree.sequence_parallel import Group
from rft.prefix_tree.shared_rollout import Share


@dataclass(frozen=True)
class Pace:
    """When the host looks at the rows, and which it drops.

    Attributes:
        look: tokens between two looks.
        halves: whether rows are dropped only if half of them have ended, and then to a power of two, so that
            there are few shapes; otherwise every row that has ended is dropped.
    """

    look: int
    halves: bool

    def kept(self, living: list[int], rows: int, ranks: int = 1) -> list[int]:
        """The rows of the next step, a multiple of `ranks`: the living ones, and the last one again to fill
        this number or a bucket; all, if that would be no fewer."""
        size = 1 << (len(living) - 1).bit_length() if self.halves else len(living)
        size += -size % ranks
        if size >= rows or (self.halves and 2 * len(living) > rows):
            return list(range(rows))
        return living + living[-1:] * (size - len(living))


def pace(device: torch.device) -> Pace:
    """On CUDA a look waits for the GPU, and a new shape is a new graph. On a CPU both are free, and a row
    that has ended costs as much as a living one."""
    return Pace(16, True) if device.type == "cuda" else Pace(1, False)


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
    group: Group | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """One completion for every prompt.

    Args:
        model: a causal language model after `attention.enable`; under ZeRO-3, with its weights gathered.
        prompts: token ids; a prompt is repeated for each of its completions.
        max_new_tokens: maximum number of tokens of a completion.
        eos_ids: tokens that end a completion; the end token is part of it.
        temperature: divisor of the logits; 0 takes the most likely token.
        top_p, top_k, min_p: as in transformers; 1, 0 and None leave the distribution alone.
        generator: draws the tokens; torch's global one by default. In a group, each rank draws for its own
            rows: give every rank another seed, or rows of one prompt would draw alike. A result then belongs
            to these seeds and to the size of the group.
        group: process group that shares the rollout (`sequence_parallel`): each rank prefills a part of the
            prompts, decodes a part of the rows, and holds the keys and values of its heads. All its ranks
            call this together, with the same prompts, and each gets all completions.

    Returns:
        (completions, logps): token ids, and of each token the log-prob under softmax(logits / temperature)
        before top-p, top-k and min-p, which is what `tree_logps` gives at this temperature (temperature 0: as
        at 1).

    Raises:
        ModelError: If `attention.enable` was not called, a prompt with its completion can be longer than the
            model's positions, the new keys and values do not fit into memory, or a log-prob is NaN.
    """
    bare: Any = unwrap_model(model)
    check_enabled(bare)
    longest = max(map(len, prompts), default=0) + max_new_tokens
    support.check_length(bare, longest)
    if not len(prompts) or not max_new_tokens:
        return [[] for _ in prompts], [[] for _ in prompts]
    known = {id(prompt): np.asarray(prompt, dtype=np.int64) for prompt in prompts}
    groups = [id(prompt) for prompt in prompts]  # a prompt that is repeated is one list
    tree = Tree([known[group] for group in groups], groups=groups, device=next(bare.parameters()).device)
    device, in_step, share = tree.device, _is_sharded(bare), Share(group)

    # rows under a node: one slice
    order = sorted(range(len(prompts)), key=tree.leaves.__getitem__)
    order += order[-1:] * (-len(order) % share.ranks)  # copies, so that ranks have as many rows each
    last_R = torch.tensor([tree.nodes[tree.leaves[row]].end - 1 for row in order], device=device)
    prefill, logits_RV = share.prefill(model, tree, last_R)
    leaves = [tree.leaves[row] for row in order]
    decode = share.plan(prefill, leaves, max_new_tokens - 1)  # the last token's keys are asked by none
    draw = Draw(temperature, top_p, top_k, min_p, generator)
    tokens_R, logps_R = share.gather(*draw(logits_RV))
    rows = Rows(order, tree.positions_T[last_R], max_new_tokens, eos_ids, logps_R.dtype)
    rows.append(tokens_R, logps_R)
    del logits_RV
    drawn = 1
    if max_new_tokens > 1:
        forward = forward_of(model, bare, decode, range(min(map(len, prompts)), longest))

        def step() -> None:
            decode.suffixes.grow()
            logits_RV = forward(share.of(rows.tokens_R), share.of(rows.positions_R))
            rows.append(*share.gather(*draw(logits_RV)))

        replayed = Replayed(step, device, generator)
        every = pace(device)
    while drawn < max_new_tokens:
        if drawn % every.look == 0:
            living = rows.living()
            if _everywhere(not living, in_step, device):
                break
            # a process without a living row forwards its last ones with the others; their draws do not count
            if living and (kept := every.kept(living, len(rows), share.ranks)) != list(range(len(rows))):
                decode.keep(kept, rows.keep(kept))
                replayed.restart()
        replayed.run()
        decode.suffixes.length += 1
        drawn += 1
    return rows.completions(drawn)


def _is_sharded(model: nn.Module) -> bool:
    """Whether a forward waits for the other processes, since each holds a part of the weights (FSDP2,
    ZeRO-3)."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return several and (
        any(isinstance(module, FSDPModule) for module in model.modules())
        or any(hasattr(p, "ds_id") for p in model.parameters())
    )


def _everywhere(done: bool, in_step: bool, device: torch.device) -> bool:
    """Whether this process has no row left, or, if processes run in step, whether none of them has."""
    if not in_step:
        return done
    everyone = torch.tensor(int(done), device=device)
    dist.all_reduce(everyone, dist.ReduceOp.MIN)
    return bool(everyone)


class Rows:
    """What a step knows of its rows, on the device, and the tables of all that was drawn.

    Args:
        order: for every row its number in the caller's order. A number after itself is that of a copy, which
            fills a step: it counts as ended.
        positions_R: of every row's last token.
        room: C.
        eos_ids: tokens that end a row.
        dtype: of log-probs.

    Attributes:
        tokens_R, positions_R: the last token of every row, and its position.
    """

    def __init__(
        self, order: list[int], positions_R: Tensor, room: int, eos_ids: Sequence[int], dtype: torch.dtype
    ):
        device = positions_R.device
        self.order, self.total, self.eos_ids = order, len(set(order)), list(eos_ids)
        self.tokens_R, self.positions_R = torch.zeros_like(positions_R), positions_R
        self.columns_R = torch.tensor(self._columns(), device=device)
        self.ended_R = self.columns_R == self.total
        self.failed_R = torch.zeros_like(self.ended_R)
        self.step_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.ends_E = torch.tensor(self.eos_ids, dtype=torch.long, device=device)
        # the last column takes what copies of rows draw
        self.tokens_CB = torch.zeros(room, self.total + 1, dtype=torch.long, device=device)
        self.logps_CB = torch.zeros(room, self.total + 1, dtype=dtype, device=device)

    def _columns(self) -> list[int]:
        copies = [a == b for a, b in zip(self.order, [-1, *self.order], strict=False)]
        return [self.total if copy else row for copy, row in zip(copies, self.order, strict=True)]

    def __len__(self) -> int:
        return len(self.order)

    def append(self, tokens_R: Tensor, logps_R: Tensor) -> None:
        """Appends a token with its log-prob to every row; what a row draws after its end counts nowhere."""
        where = (self.step_1, self.columns_R)
        self.failed_R |= torch.isnan(logps_R) & ~self.ended_R
        self.ended_R |= (tokens_R.unsqueeze(1) == self.ends_E).any(1)
        self.tokens_CB.index_put_(where, tokens_R)
        self.logps_CB.index_put_(where, logps_R)
        self.tokens_R.copy_(tokens_R)
        self.positions_R += 1
        self.step_1 += 1

    def living(self) -> list[int]:
        """The rows that have not ended. Waits for the device.

        Raises:
            ModelError: If a log-prob is NaN.
        """
        states = (self.ended_R + 2 * self.failed_R).tolist()
        if any(state > 1 for state in states):
            row, *others = sorted(self.order[r] for r, state in enumerate(states) if state > 1)
            token = int(self.logps_CB[:, row].isnan().nonzero()[0]) + 1
            raise ModelError(support.not_finite([row, *others], f" at token {token}"))
        return [row for row, state in enumerate(states) if state == 0]

    def keep(self, rows: list[int]) -> Tensor:
        """Keeps these rows, in this order, and returns them on the device. A row that is kept again, after
        itself, is a copy."""
        self.order = [self.order[row] for row in rows]
        new = torch.tensor([rows, self._columns()]).to(self.tokens_R.device, non_blocking=True)
        rows_N, self.columns_R = new.unbind()
        for name in ("tokens_R", "positions_R", "ended_R", "failed_R"):
            setattr(self, name, getattr(self, name).index_select(0, rows_N))
        self.ended_R |= self.columns_R == self.total
        return rows_N

    def completions(self, drawn: int) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and log-probs of all rows, in the caller's order, each up to its end.

        Raises:
            ModelError: If a log-prob is NaN.
        """
        self.living()
        tokens_BC, logps_BC = (x[:drawn, : self.total].t().tolist() for x in (self.tokens_CB, self.logps_CB))
        ends = set(self.eos_ids)
        sizes = [next((i for i, t in enumerate(row, 1) if t in ends), drawn) for row in tokens_BC]
        return tuple([row[:n] for row, n in zip(x, sizes, strict=True)] for x in (tokens_BC, logps_BC))  # type: ignore[return-value]


class Draw:
    """Draws a token for every row."""

    def __init__(
        self,
        temperature: float,
        top_p: float,
        top_k: int,
        min_p: float | None,
        generator: torch.Generator | None,
    ):
        self.temperature, self.generator = temperature, generator
        # in the order in which transformers' generate applies them
        warpers: list[tuple[Any, Any]] = [
            (top_k, TopKLogitsWarper),
            (top_p if top_p < 1 else None, TopPLogitsWarper),
            (min_p, MinPLogitsWarper),
        ]
        self.processors = LogitsProcessorList([warper(value) for value, warper in warpers if value])

    def __call__(self, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        """A token for every row, and its log-prob before the processors; NaN if any logit is."""
        logits_RV = logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32))
        all_RV = torch.log_softmax(logits_RV / (self.temperature or 1.0), -1)
        if self.temperature == 0:
            tokens_R = logits_RV.argmax(-1)
        else:
            previous_ids: Any = None  # none of the processors looks at the tokens before
            probs_RV = torch.softmax(self.processors(previous_ids, all_RV), -1)
            # what torch.multinomial draws, without its checks, for which the host waits
            waits_RV = torch.empty_like(probs_RV).exponential_(generator=self.generator)
            tokens_R = (probs_RV / waits_RV).argmax(-1)
        return tokens_R, all_RV.gather(1, tokens_R[:, None]).squeeze(1)
