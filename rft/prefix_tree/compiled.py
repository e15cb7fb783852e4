"""Small functions of a decode step as one kernel each on CUDA, by torch.compile.

Invariant: a function gives the same with and without it, up to rounding (one kernel rounds once). If it
cannot be compiled, which the log says once, it runs as it is.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)

PAYS = 4096
"""Layers times tokens of a rollout from which compiling pays: it takes 10 to 20 seconds in a process, and
saves about 30 microseconds of each (on an H200)."""

Function = Callable[..., Any]


def compiles(device: torch.device, layers: int, tokens: int) -> bool:
    """Whether functions of a decode step are compiled in a rollout of so many tokens."""
    return device.type == "cuda" and layers * tokens >= PAYS and not _refused


def compiled(function: Function) -> Function:
    """The function as one kernel. It must not change its arguments."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        if not _refused:
            try:
                return _whole(function)(*args)
            except RuntimeError as error:
                _refuse(error)
        return function(*args)

    return run


@functools.cache
def _whole(function: Function) -> Function:
    return torch.compile(function, options={"online_softmax": False})  # it warns where it cannot be


_refused: list[str] = []
"""Why nothing is compiled any more in this process."""


def _refuse(error: RuntimeError) -> None:
    """Raises out of memory again."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    _refused.append(str(error).strip().split("\n")[0])
    logger.warning("decoding runs in more kernels, slower: torch.compile failed (%s)", _refused[0])
