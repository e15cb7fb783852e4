"""`rft bench gpu`: everything about a card in one command and a given time.

Invariant: what was measured is on the disk. `gpu.json` is written after every part and whenever a part has more to say, and a
part that fails, hangs or dies costs only itself. The parts share the time by their weights: what one leaves is the others'.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rft.bench.parts import PARTS, work
from rft.bench.table import show_gpu
from rft.errors import ModelError
from rft.evaluate.results import write_whole

START = 60.0  # seconds that a worker may need before its first part
SLACK = 2.0  # times its share that a part may take before it is stopped


Work = Callable[[Connection, Path, bool], None]


class Worker:
    """The process in which parts run."""

    def __init__(self, out: Path, rehearse: bool, target: Work):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=target, args=(theirs, out, rehearse), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is the end of the pipe

    def ready(self, seconds: float) -> bool:
        """Whether it has started within this time."""
        return self.pipe.poll(max(0.0, seconds)) and self._receive()[0] == "ready"

    def run(self, part: str, seconds: float, limit: float, done: dict[str, Any], say: Any) -> tuple[str, dict[str, Any], str]:
        """(status, figures, why) of a part: "done", "skipped", "failed", or "stopped" after `limit` seconds."""
        end = time.monotonic() + limit
        figures: dict[str, Any] = {}
        self.pipe.send((part, seconds, done))
        while self.pipe.poll(max(0.0, end - time.monotonic())):
            status, found, why = self._receive()
            figures = found or figures
            if status != "figures":
                return status, figures, why
            say(figures)
        return "stopped", figures, f"not done after {limit:.0f} s"

    def _receive(self) -> tuple[str, dict[str, Any], str]:
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join(5)
            return "failed", {}, f"its process died (exit code {self.process.exitcode}); log.txt has its last words"

    def end(self) -> None:
        """Kills it."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


def gpu(out: Path, minutes: float, rehearse: bool, parts: Sequence[str] = tuple(PARTS), target: Work = work) -> int:
    """Measures, prints a line a part and a table at the end; exit code 1 if a part failed or a kernel is wrong.

    Raises:
        ModelError: no CUDA device here.
    """
    start = time.monotonic()
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # read when a worker starts CUDA
    if not rehearse:
        import torch

        if not torch.cuda.is_available():
            raise ModelError("torch sees no CUDA device here: --rehearse runs the same code on a CPU, at toy sizes")
    out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "what": "gpu",
        "rehearsal": rehearse,
        "minutes": minutes,
        "date": time.strftime("%Y-%m-%d"),
        "parts": {},
    }
    end, worker = start + 60 * minutes, None
    try:
        for i, part in enumerate(parts):
            entry: dict[str, Any] = {"status": "running", "figures": {}}
            result["parts"][part] = entry

            def keep(figures: dict[str, Any], entry: dict[str, Any] = entry) -> None:
                entry["figures"] = figures
                write_whole(out / "gpu.json", json.dumps(result, indent=1) + "\n")

            if worker is None:
                worker = Worker(out, rehearse, target)
                if not worker.ready(min(START, end - time.monotonic())):
                    raise ModelError(f"{out / 'log.txt'}: the process that measures did not start; it says why there")
            left, began = end - time.monotonic(), time.monotonic()
            seconds = left * PARTS[part][0] / sum(PARTS[name][0] for name in parts[i:])
            if left <= 0:
                outcome: tuple[str, dict[str, Any], str] = ("skipped", {}, f"the {minutes:g} minutes are over")
            else:
                done = {name: before["figures"] for name, before in result["parts"].items()}
                outcome = worker.run(part, seconds, min(left, max(START, SLACK * seconds)), done, keep)
            status, figures, why = outcome
            entry |= {"status": status, "seconds": round(time.monotonic() - began, 1)} | ({"why": why} if why else {})
            keep(figures or entry["figures"])
            print(f"{part}: {status}, {entry['seconds']:.0f} s{f': {why}' if why else ''}", flush=True)
            if status in ("failed", "stopped"):  # a device that has failed once may fail for ever in that process
                worker.end()
                worker = None
    finally:
        if worker is not None:
            worker.end()
    show_gpu(result)
    print(f"{time.monotonic() - start:.0f} s in all; {out / 'gpu.json'}")
    found = result["parts"]
    return int(
        any(part["status"] == "failed" for part in found.values()) or found.get("kernels", {})["figures"].get("wrong", 0) > 0
    )
