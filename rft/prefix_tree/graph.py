"""A decode step as a CUDA graph: captured once for a number of rows, then replayed with one launch.

A replay repeats the captured kernels on the same memory. It is right if a step reads and writes nothing but
tensors that stay where they are, and if nothing in it depends on the host.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

Step = Callable[[], None]


class Replayed:
    """Runs a step again and again: the first time as it is, since that prepares what a capture must not (the
    kernels' libraries, keys copied side by side), and from then on, on CUDA, as a graph. A step that cannot
    be captured runs as it is, which the log says once.

    Args:
        step: takes and returns nothing; reads and writes tensors in place.
        device: where these tensors are.
        generator: draws random numbers in the step; torch's global one by default.
    """

    def __init__(self, step: Step, device: torch.device, generator: torch.Generator | None = None):
        self.step, self.device, self.generator = step, device, generator
        self.run = self._warm_up

    def restart(self) -> None:
        """Must be called after tensors of the step were replaced."""
        self.run = self._warm_up

    def _warm_up(self) -> None:
        self.step()
        self.run = self._capture if self.device.type == "cuda" else self.step

    def _capture(self) -> None:
        self.run = capture(self.step, self.generator)
        self.run()


def capture(step: Step, generator: torch.Generator | None) -> Step:
    """The step as a graph; the step itself if it cannot be captured."""
    try:
        graph = torch.cuda.CUDAGraph()
        if generator is not None:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        _cannot(str(error).strip().split("\n")[0])
        return step
    return graph.replay


@functools.cache
def _cannot(why: str) -> None:
    logger.warning("decoding runs without a CUDA graph, slower: the step cannot be captured (%s)", why)
