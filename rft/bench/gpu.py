"""`rft bench gpu`: measures everything about a card in one command and a given time.

Invariant: everything measured is on disk. `gpu.json` is written after every part and whenever a part has new
figures. If a part fails, hangs or dies, only that part is lost. The parts share the time by their weights;
time that one leaves goes to the others.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rft.bench.parts import PARTS, STANDARD, work
from rft.bench.table import show_gpu
from rft.errors import ModelError
from rft.files import write_whole

START = 60.0  # maximum seconds for a worker to start
SLACK = 2.0  # a part is stopped after this multiple of its share of the time


Work = Callable[[Connection, Path, bool], None]


Outcome = tuple[str, dict[str, Any], str]
"""The status of a part ("done", "skipped", "failed", "stopped"), its figures, and the reason."""


class Worker:
    """The process in which parts run.

    It is replaced after a failure or a stop, because a device that failed once may keep failing in that
    process.
    """

    def __init__(self, out: Path, rehearse: bool, target: Work):
        self.args, self.target = (out, rehearse), target
        self.process: Any = None

    def run(
        self,
        part: str,
        seconds: float,
        limit: float,
        done: dict[str, Any],
        say: Callable[[dict[str, Any]], None],
    ) -> Outcome:
        """Runs a part that should take `seconds`, and stops it after `limit` seconds."""
        end, status, why = time.monotonic() + limit, "ready", ""
        figures: dict[str, Any] = {}
        try:
            if self.process is None:
                self._start()
                status, _, why = self._receive(min(end, time.monotonic() + START))
            if status == "ready":
                self.pipe.send((part, seconds, done))
            while status in ("ready", "figures"):
                status, received, why = self._receive(end)
                figures = received or figures
                if status == "figures":
                    say(figures)
        except OSError as error:  # the other end of the pipe is closed
            status, why = "failed", str(error)
        if status in ("failed", "stopped"):
            self.end()
        return status, figures, why

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, worker_end = context.Pipe()
        self.process = context.Process(target=self.target, args=(worker_end, *self.args), daemon=True)
        self.process.start()
        worker_end.close()  # so that the pipe ends when the worker dies

    def _receive(self, end: float) -> Outcome:
        if not self.pipe.poll(max(0.0, end - time.monotonic())):
            return "stopped", {}, "not finished in time"
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join(5)
            return (
                "failed",
                {},
                f"its process died (exit code {self.process.exitcode}); log.txt contains its last output",
            )

    def end(self) -> None:
        """Kills the process, if there is one."""
        if self.process is not None:
            self.pipe.close()
            self.process.kill()
            self.process.join()
            self.process = None


def gpu(
    out: Path, minutes: float, rehearse: bool, parts: Sequence[str] = STANDARD, target: Work = work
) -> int:
    """Measures, and prints one line per part and a table at the end.

    Args:
        out: output folder for gpu.json and log.txt.
        minutes: total time.
        rehearse: run the same code on a CPU, at toy sizes.
        parts: names of the parts to run.
        target: the function that runs in the worker process.

    Returns:
        The exit code: 1 if a part failed or a kernel is wrong, otherwise 0.

    Raises:
        ModelError: there is no CUDA device.
    """
    start = time.monotonic()
    # read when a worker initializes CUDA
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if not rehearse:
        import torch

        if not torch.cuda.is_available():
            raise ModelError(
                "torch sees no CUDA device here: --rehearse runs the same code on a CPU, at toy sizes"
            )
    out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "what": "gpu",
        "rehearsal": rehearse,
        "minutes": minutes,
        "date": time.strftime("%Y-%m-%d"),
        "parts": {},
    }
    end, worker = start + 60 * minutes, Worker(out, rehearse, target)
    try:
        for i, part in enumerate(parts):
            entry: dict[str, Any] = {"status": "running", "figures": {}}
            done = {name: before["figures"] for name, before in result["parts"].items()}
            result["parts"][part] = entry

            def keep(figures: dict[str, Any], entry: dict[str, Any] = entry) -> None:
                entry["figures"] = figures
                write_whole(out / "gpu.json", json.dumps(result, indent=1) + "\n")

            began = time.monotonic()
            left = end - began
            seconds = left * PARTS[part][0] / sum(PARTS[name][0] for name in parts[i:])
            outcome: Outcome = ("skipped", {}, f"the {minutes:g} minutes are over")
            if left > 0:
                outcome = worker.run(part, seconds, min(left, max(START, SLACK * seconds)), done, keep)
            entry["status"], figures, why = outcome
            entry |= {"seconds": round(time.monotonic() - began, 1)} | ({"why": why} if why else {})
            keep(figures)
            print(
                f"{part}: {entry['status']}, {entry['seconds']:.0f} s{f': {why}' if why else ''}", flush=True
            )
    finally:
        worker.end()
    show_gpu(result)
    print(f"{time.monotonic() - start:.0f} s in total; {out / 'gpu.json'}")
    measured = result["parts"].values()
    return int(any(part["status"] == "failed" or part["figures"].get("wrong") for part in measured))
