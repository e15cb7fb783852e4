"""The keys and values that rows grow while they are sampled: allocated once for all tokens that a row may
get, written at a position that the device knows.

A step therefore has one shape from the first token to the last, and a CUDA graph of it stays valid until rows
are dropped. On a CPU, where nothing is captured, attention takes the used part of the space instead.

Shapes: R rows, C tokens of space in each, H query heads in K groups of g, F = R * g queries (the heads of a
group are queries of their row), D head size.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from rft.errors import ModelError
from rft.prefix_tree.kernels import Lengths, flash, flash_used

GIB = 2**30


class Suffixes:
    """Each row's own keys and values in every layer.

    Args:
        rows, room: R and C.
        like: by layer, keys (T, K, D) whose heads, dtype and device those of the rows have.

    Attributes:
        length: tokens that every row has, known to the host; `grow` leaves it to the caller, since a replayed
            step runs no Python.

    Raises:
        ModelError: If there is not enough memory.
    """

    def __init__(self, rows: int, room: int, like: dict[int, Tensor]):
        self.rows, self.room, self.length = rows, room, 0
        self.lengths: Lengths = (None, None, None, None)
        first = next(iter(like.values()), torch.empty(0, 0, 0))
        self.device = first.device
        self.at_1 = torch.full((1,), -1, device=self.device)  # where the next tokens' keys go
        self.used_R = torch.zeros(rows, dtype=torch.int32, device=self.device)
        try:  # keys, then values, head by head
            self.layers = {
                layer: x.new_empty(rows, room, 2 * x.shape[1], x.shape[2]) for layer, x in like.items()
            }
        except RuntimeError as error:  # torch.OutOfMemoryError, and the allocator of the CPU
            self.layers = {}
            row_bytes = sum(2 * room * x.shape[1] * x.shape[2] * x.element_size() for x in like.values())
            raise ModelError(_too_large(rows, room, row_bytes, free_bytes(self.device))) from error

    def grow(self) -> None:
        """Makes space for one more token of every row: the first operation of a step."""
        self.at_1 += 1
        self.used_R += 1

    def attend(self, layer: int, q_FKD: Tensor, kv_RSD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Appends the rows' next keys and values (R, 2 * K, D), and attends what each row has: outputs
        (F, K, D) and log-sum-exps (F, K)."""
        cache_RCSD = self.layers[layer].index_copy_(1, self.at_1, kv_RSD[:, None])
        k_RCKD, v_RCKD = cache_RCSD.chunk(2, 2)
        groups = len(q_FKD) // self.rows
        if q_FKD.device.type == "cuda":
            if self.lengths[0] is None:
                self.lengths = (*self._spans(groups), *self._spans(self.room))
            return flash_used(q_FKD, k_RCKD, v_RCKD, self.used_R, self.lengths, scale)
        q_RKgD = q_FKD.unflatten(0, (-1, groups)).transpose(1, 2)
        k_RKCD, v_RKCD = (x[:, : self.length + 1].transpose(1, 2) for x in (k_RCKD, v_RCKD))
        return tuple(x.transpose(1, 2).flatten(0, 1) for x in flash(q_RKgD, k_RKCD, v_RKCD, scale))  # type: ignore[return-value]

    def keep(self, rows_N: Tensor) -> None:
        """Keeps these rows, in this order; a row may be kept twice."""
        self.rows = len(rows_N)
        self.used_R, self.lengths = self.used_R[: self.rows].clone(), (None, None, None, None)
        for layer, old in self.layers.items():  # layer by layer, so that memory holds one layer twice
            new = old.new_empty(self.rows, *old.shape[1:])
            torch.index_select(old[:, : self.length], 0, rows_N, out=new[:, : self.length])
            self.layers[layer] = new

    def _spans(self, size: int) -> tuple[Tensor, int]:
        return torch.arange(0, self.rows * size + 1, size, dtype=torch.int32, device=self.device), size


def free_bytes(device: torch.device) -> int:
    """Memory that can still be allocated on the device."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _too_large(rows: int, room: int, row_bytes: int, free: int) -> str:
    return (
        f"sampling {rows} rows of up to {room} new tokens needs {rows * row_bytes / GIB:.1f} GiB for their"
        f" keys and values, and {free / GIB:.1f} GiB are free: {free // row_bytes} rows fit; sample fewer"
        " rows at once (fewer questions or generations in a batch), or lower the maximum number of new tokens"
    )
