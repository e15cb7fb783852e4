"""Timing of works that are compared: they take turns, so that a slow period of the machine affects all of
them, and the median of their times counts.

On a CPU, the CPU seconds of this process and the share of the machine used by others are recorded as well as
the wall-clock seconds. If others used some of it, compare CPU seconds.
"""

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from rft.bench import device

logger = logging.getLogger(__name__)

LEAST = 3  # minimum number of repeats for a comparison


@dataclass
class Times:
    """Seconds and CPU seconds of each repeat of one work, and its last result."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    result: Any = None

    def figures(self, name: str, on: str, factor: float = 1.0) -> dict[str, Any]:
        """Returns medians and all repeats, by figure. `factor` scales times measured on a part of the
        batch."""
        figures: dict[str, Any] = {f"{name}_seconds": factor * statistics.median(self.seconds)}
        if on == "cpu":
            figures[f"{name}_cpu_seconds"] = factor * statistics.median(self.cpu_seconds)
        return figures | {f"{name}_repeats": [round(factor * repeat, 6) for repeat in self.seconds]}


def once(on: str, work: Callable[[], Any]) -> tuple[float, Any]:
    """Runs the work and returns its seconds and its result."""
    device.wait(on)
    start = time.perf_counter()
    result = work()
    device.wait(on)
    return time.perf_counter() - start, result


def in_turns(
    on: str, works: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, Times], dict[str, float]]:
    """Runs each work `repeats` times, in turns, and logs each time.

    Returns:
        The times by work, and on a CPU {"others_cpu_share": share of the machine's CPU time used by other
        processes}.
    """
    times = {name: Times() for name in works}
    start, others = time.perf_counter(), _others_seconds()
    for repeat in range(1, repeats + 1):
        for name, work in works.items():
            cpu = time.process_time()
            seconds, times[name].result = once(on, work)
            times[name].seconds.append(seconds)
            times[name].cpu_seconds.append(time.process_time() - cpu)
            logger.info("%s, repeat %d of %d: %.3g s", name, repeat, repeats, seconds)
    if on != "cpu":
        return times, {}
    whole = (time.perf_counter() - start) * (psutil.cpu_count() or 1)
    return times, {"others_cpu_share": min(1.0, max(0.0, (_others_seconds() - others) / whole))}


def _others_seconds() -> float:
    """Returns the CPU seconds of all other processes since the machine started."""
    spent = psutil.cpu_times()
    idle = spent.idle + getattr(spent, "iowait", 0.0)
    guests = getattr(spent, "guest", 0.0) + getattr(spent, "guest_nice", 0.0)  # also counted in user and nice
    return sum(spent) - idle - guests - time.process_time()
