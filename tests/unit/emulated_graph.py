"""CUDA graphs on a CPU: capture refuses what a capture on CUDA refuses, and a replay repeats the captured
operators on the captured memory, whatever the host has done since.

Refused are reads by the host (`.item()`, `.tolist()`, `.cpu()`, `bool()`), operators whose result has a shape
that the host must read (nonzero, indexing by booleans), and tensors made from numbers of the host. As on CUDA
nothing runs during the capture: what it writes to older memory is undone, random states included.
"""

from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = {"detach", "alias", "_unsafe_view", "lift_fresh"}  # those that their schema does not show
READS = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
SHAPES = {"nonzero", "masked_select", "unique", "_unique2", "unique_consecutive", "repeat_interleave.Tensor"}
HOST = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero")


class Uncapturable(RuntimeError):
    """What a capture refuses."""


def tensors(x):
    if isinstance(x, torch.Tensor):
        return [x]
    if isinstance(x, dict):
        x = x.values()
    return [t for y in x for t in tensors(y)] if isinstance(x, list | tuple | type({}.values())) else []


def is_view(func):
    """Whether the operator launches nothing: its results are its operands' memory."""
    if func.overloadpacket.__name__ in VIEWS:
        return True
    returned = [r.alias_info for r in func._schema.returns]
    return bool(returned) and all(alias is not None and not alias.is_write for alias in returned)


class Counted(TorchDispatchMode):
    """Counts operators that launch something, by name."""

    def __init__(self):
        super().__init__()
        self.operators = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not is_view(func) and not func.overloadpacket.__name__.startswith(("empty", "new_empty", "sym_")):
            self.operators[str(func.overloadpacket.__name__)] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads(monkeypatch):
    """Yields a list of the host's reads of tensors, in order."""
    reads = []

    def counted(name, original):
        def read(self, *args, **kwargs):
            reads.append(name)
            return original(self, *args, **kwargs)

        return read

    with monkeypatch.context() as patch:
        for name in HOST:
            patch.setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
        yield reads


class CUDAGraph(TorchDispatchMode):
    """Stands for torch.cuda.CUDAGraph; `replays` counts all graphs' replays, `made` holds all graphs."""

    made = []

    def __init__(self):
        super().__init__()
        self.tape, self.before, self.own, self.generators, self.replays = [], {}, set(), [], 0
        self.scalars = []  # numbers of the host as tensors
        self.inside = False  # an operator runs, whose emulation may do anything
        CUDAGraph.made.append(self)

    def register_generator_state(self, generator):
        self.generators.append(generator)

    def replay(self):
        self.replays += 1
        with torch.no_grad():
            for func, args, kwargs, outs in self.tape:
                for old, new in zip(outs, tensors([func(*args, **kwargs)]), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        indices = tensors(args[1]) if name in ("index", "index_put", "index_put_") else []
        if name in READS | SHAPES or any(x.dtype == torch.bool for x in indices):
            raise Uncapturable(f"operation not permitted when stream is capturing: {name}")
        if name == "lift_fresh" and args[0].dim() == 0:
            self.scalars.append(args[0])  # as in x[1:] = 0, which fills
        elif name.startswith("lift_fresh") or (
            name not in ("fill_", "copy_", "detach")
            and any(x is y for x in tensors(args) for y in self.scalars)
        ):
            raise Uncapturable("copy from pageable memory of the host while capturing")
        generator = kwargs.get("generator")
        if generator is not None and generator._cdata not in [g._cdata for g in self.generators]:
            raise Uncapturable("a generator that is not registered")
        for argument, x in zip(func._schema.arguments, args, strict=False):
            self._keep(argument, x)
        for argument in func._schema.arguments:
            self._keep(argument, kwargs.get(argument.name))
        self.inside = True
        try:
            result = func(*args, **kwargs)
        finally:
            self.inside = False
        outs = tensors([result])
        if not is_view(func):
            self.own |= {x.untyped_storage().data_ptr() for x in outs} - {
                x.untyped_storage().data_ptr() for x in tensors([args, kwargs])
            }
            self.tape.append((func, args, kwargs, outs))
        return result

    def _keep(self, argument, x):
        """Keeps older memory as it is before it is written."""
        if x is None or argument.alias_info is None or not argument.alias_info.is_write:
            return
        for tensor in tensors([x]):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.own and storage.data_ptr() not in self.before:
                self.before[storage.data_ptr()] = storage, storage.clone()

    def restore(self):
        for storage, before in self.before.values():
            storage.copy_(before)


@contextmanager
def graph(captured):
    """Stands for torch.cuda.graph."""
    generators = [torch.default_generator, *captured.generators]
    states = [generator.get_state() for generator in generators]

    def refused(original):
        def read(self, *args, **kwargs):
            if captured.inside:
                return original(self, *args, **kwargs)
            raise Uncapturable("operation not permitted when stream is capturing: a read by the host")

        return read

    originals = {name: getattr(torch.Tensor, name) for name in HOST}
    for name in HOST:
        setattr(torch.Tensor, name, refused(originals[name]))
    try:
        with captured:
            yield
    finally:
        for name, original in originals.items():
            setattr(torch.Tensor, name, original)
        captured.restore()
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextmanager
def on_cpu(monkeypatch):
    """torch.cuda's graphs on the CPU; yields the graphs that were made."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
        patch.setattr(torch.cuda, "graph", graph)
        CUDAGraph.made = []
        yield CUDAGraph.made
