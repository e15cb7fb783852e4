"""A GPU without data: the project's own code runs over fake tensors of any size, and every byte it would hold
there is counted.

Tensors on the simulated device are `FakeTensor`s (a shape, a dtype and no data); "cuda", where code names it,
is that device, and all other tensors are the host's and real. Autograd, checkpointing, autocast, hooks and
the optimizer are PyTorch's, run as ever. Counted are storages from the op that makes them until they are
freed, and inside FlashAttention's backward what it allocates for itself (FlashAttention-2's mha_varlen_bwd:
dq in float32 and the row sums of dout * out, both padded by a block of 128 a span; dk and dv for every query
head where keys are grouped). Not counted: cuBLAS's workspace, the CUDA context, fragments.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rft.prefix_tree import cudnn

BLOCK = 128
"""Rows by which FlashAttention-2's backward pads a span in its buffers."""

READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.item.default,
)
"""Ops that ask the device for a value."""


class FakeGPU(TorchDispatchMode):
    """`live`, `peak`: bytes held, and the most so far; `at`: the op that reached it. Enter it to be on the
    device. FlashAttention attends there, also in a backward pass: there is nothing to measure."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.at = ""
        self._sizes: dict[int, int] = {}
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> FakeGPU:
        self._patch.setenv(cudnn.CHOICE, "flash")
        self._fake.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._fake.__exit__(*error)
        self._patch.undo()

    def hold(self, size: float) -> None:
        """Counts bytes that no tensor of the simulation stands for; negative: they are freed."""
        self.live += int(size)
        self._note("held")

    @contextmanager
    def host_of(self, module: Any) -> Iterator[None]:
        """For a while what the module calls `save_on_cpu` is that of this device, whose tensors say that they
        are on a CPU: what is kept for the backward pass leaves it, and comes back when needed."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "save_on_cpu", lambda *_, **__: saved_tensors_hooks(_shape, _again))
            yield

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        named = kwargs.get("device")
        here = named is not None and torch.device(named).type == "cuda"
        if not here and not any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs))):
            with unset_fake_temporarily():
                return op(*args, **kwargs)  # the host's
        if op in READS:
            return False  # no data: no flag is ever up
        if here:
            kwargs["device"] = torch.device("cpu")  # a device that this build of PyTorch has
        out = op(*args, **kwargs)
        for x in tree_leaves(out):
            if isinstance(x, FakeTensor):
                self._track(x, op)
        if op is torch.ops.aten._flash_attention_backward.default:
            self._note(str(op), _flash_buffers(args[1], args[2], args[6]))
        return out

    def _track(self, x: FakeTensor, op: Any) -> None:
        storage = x.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            weakref.finalize(storage, self._free, key)
            self._note(str(op))

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def _note(self, what: str, beside: int = 0) -> None:
        if self.live + beside > self.peak:
            self.peak, self.at = self.live + beside, what


def _shape(x: Tensor) -> tuple[torch.Size, torch.dtype]:
    return x.shape, x.dtype


def _again(kept: tuple[torch.Size, torch.dtype]) -> Tensor:
    return torch.empty(kept[0], dtype=kept[1], device="cuda")


def _flash_buffers(q_NHD: Tensor, k_MKD: Tensor, offsets_n: Tensor) -> int:
    """Bytes that FlashAttention-2's backward allocates beside its outputs."""
    queries, heads, size = q_NHD.shape
    padded = queries + BLOCK * (len(offsets_n) - 1)
    grouped = 2 * len(k_MKD) * heads * size * k_MKD.element_size() if k_MKD.shape[1] < heads else 0
    return padded * heads * (size + 1) * 4 + grouped
