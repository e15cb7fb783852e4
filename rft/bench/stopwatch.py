"""How long things take, so that they can be compared: they take turns, so that what slows the machine for a while slows all of
them, and the median of their times counts.

On a CPU the CPU seconds of this process are kept beside those of the clock, and so is the share of the machine that others
took meanwhile: where they took some, CPU seconds are the ones to compare.
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

LEAST = 3  # repeats that a comparison needs


@dataclass
class Times:
    """Of one work: seconds and CPU seconds of each repeat, and the last result."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    result: Any = None

    def figures(self, name: str, on: str, factor: float = 1.0) -> dict[str, Any]:
        """Medians and all repeats, by figure; `factor` scales what was done for a part of the whole."""
        found: dict[str, Any] = {f"{name}_seconds": factor * statistics.median(self.seconds)}
        if on == "cpu":
            found[f"{name}_cpu_seconds"] = factor * statistics.median(self.cpu_seconds)
        return found | {f"{name}_repeats": [round(factor * each, 6) for each in self.seconds]}


def once(on: str, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the work, and its result."""
    device.wait(on)
    start = time.perf_counter()
    result = work()
    device.wait(on)
    return time.perf_counter() - start, result


def in_turns(on: str, works: Mapping[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, Times], dict[str, float]]:
    """Each work `repeats` times, in turns; each is logged as it ends.

    Returns:
        The times by work, and on a CPU {"others_cpu_share": of the machine's CPU time, what other processes took}.
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
    """CPU seconds of everything but this process since the machine was started."""
    spent = psutil.cpu_times()
    idle = spent.idle + getattr(spent, "iowait", 0.0)
    guests = getattr(spent, "guest", 0.0) + getattr(spent, "guest_nice", 0.0)  # counted in user and nice too
    return sum(spent) - idle - guests - time.process_time()
