"""Starts GRPO runs from a process that has imported everything once, so that a killed and resumed run costs
seconds.

Reads jobs from stdin, one JSON object a line, and answers each with one: {"statuses": [of each process],
"phases": [...]}. A job: {"recipe", "argv", "processes", "env", "log", "kill", "fixed"}. recipe is a key of
SCRIPTS; fixed says whether completions and norms are those of `fixed_rollouts`; kill is null, {"after":
seconds}, or {"in": method, "call": n} with "signal" (SIGKILL), "rank" (0) and "others" ("killed" with it, as
by a launcher; or "left" alone).
"""

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

import fixed_rollouts
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from rft.runs import checkpoint
from rft.train import grpo, memory_grpo, runner, sft, trl

SCRIPTS = {"grpo": grpo, "memory_grpo": memory_grpo, "sft": sft}
PHASES = {"rollout": "complete", "update": "training_step", "checkpoint": "_save_checkpoint"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def mark_phases(folder: Path, rank: int) -> None:
    """Leaves in a file what the process is doing."""
    for phase, name in PHASES.items():
        original = getattr(trl.PolicyTrainer, name)

        def marked(self, *args, original=original, phase=phase, **kwargs):
            place = folder / f"phase_{rank}"
            before = place.read_text() if place.exists() else "between"
            place.write_text(f"{phase} of step {self.state.global_step + 1}")
            try:
                return original(self, *args, **kwargs)
            finally:
                place.write_text(before)

        setattr(trl.PolicyTrainer, name, marked)


def signal_in(owner: type, name: str, call: int, number: int) -> None:
    """Has the `call`-th call of a method send this process a signal, behind its work (so: before its caller
    goes on)."""
    original, calls = getattr(owner, name), []

    def deadly(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, deadly)


def child(job: dict, rank: int, port: int) -> int:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(job.get("env", {}))
    if job["processes"] > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(job["processes"]),
            LOCAL_WORLD_SIZE=str(job["processes"]),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    if job.get("fixed"):
        trl.PolicyTrainer.complete = fixed_rollouts.rollouts
        Qwen3RMSNorm.forward = fixed_rollouts.norm
    mark_phases(Path(job["log"]).parent, rank)
    kill = job.get("kill") or {}
    if "in" in kill and rank == kill.get("rank", 0):
        number = getattr(signal, kill.get("signal", "SIGKILL"))
        if kill["in"] == "sync":
            original, calls = checkpoint.sync, []

            def deadly(path):
                calls.append(path)
                if len(calls) == kill["call"]:
                    os.kill(os.getpid(), number)
                original(path)

            checkpoint.sync = deadly
        else:
            owner = sft.ColdStartTrainer if job["recipe"] == "sft" else trl.PolicyTrainer
            signal_in(owner, kill["in"], kill["call"], number)
    return runner.run_main(SCRIPTS[job["recipe"]].train, job["argv"])


def run(job: dict) -> dict:
    port = free_port()
    pids = []
    for rank in range(job["processes"]):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = child(job, rank, port)
            except SystemExit as leaving:
                code = int(leaving.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    phases: list[str] = []

    def stop(pids=tuple(pids)):
        for rank in range(len(pids)):
            place = Path(job["log"]).parent / f"phase_{rank}"
            phases.append(place.read_text() if place.exists() else "starting")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    after = (job.get("kill") or {}).get("after")
    timer = threading.Timer(after, stop) if after is not None else None
    if timer:
        timer.start()
    statuses: dict[int, int] = {}
    limit = time.monotonic() + 300
    while len(statuses) < len(pids):
        for pid in pids:
            if pid not in statuses:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    statuses[pid] = os.waitstatus_to_exitcode(status)
        # as a launcher does: one down, all down, those that leave by themselves given time
        if any(statuses.values()) and (job.get("kill") or {}).get("others") != "left":
            limit = min(limit, time.monotonic() + (0 if min(statuses.values()) < 0 else 15))
        if time.monotonic() >= limit:
            for pid in pids:
                if pid not in statuses:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    if timer:
        timer.cancel()
    return {"statuses": [statuses[pid] for pid in pids], "phases": phases}


if __name__ == "__main__":
    for line in sys.stdin:
        print("answer " + json.dumps(run(json.loads(line))), flush=True)
