"""The device under test: its name, its free memory, and the peak memory of some work."""

import ctypes
import gc
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

SHARE = 2 / 3  # maximum share of the free memory for a baseline


def name(device: str) -> str:
    """Returns the name of the card, or the processor and its number of threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def wait(device: str) -> None:
    """Waits until the device has finished all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def free_bytes(device: str) -> int:
    """Returns the bytes that this process can still allocate, including what its allocator keeps."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return psutil.virtual_memory().available


def fitting(device: str, row_bytes: int | None, rows: int) -> int:
    """Returns how many of `rows` fit at a time, at least one; all, if the bytes of one are not known."""
    if not row_bytes:
        return rows
    return min(rows, max(1, int(SHARE * free_bytes(device) / row_bytes)))


def forget(device: str) -> None:
    """Frees memory that nothing refers to any more."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def peak(device: str, work: Callable[[], Any]) -> tuple[int | None, Any]:
    """Runs the work and returns its peak memory in bytes, beyond what was used before, and its result.

    On CPU the peak is the resident memory of the process as Linux counts it; None on other systems.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = work()
        return torch.cuda.max_memory_allocated() - before, result
    if platform.system() != "Linux":
        return None, work()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _resident("VmRSS")
    result = work()
    return _resident("VmHWM") - before, result


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def one_line(error: BaseException) -> str:
    """Returns the error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:240]}" if lines else type(error).__name__
