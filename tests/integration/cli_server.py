"""Runs `rft` commands from a process that has imported what they need once: a command costs a fork, not an
interpreter.

Reads jobs from stdin, a line each, a JSON list of commands that run side by side: {"argv", "log", "env",
"cwd"}. Answers with a line: the exit codes, in order. Reports are written without their charts, which would
take more time than all else.
"""

import json
import os
import sys
import traceback

import numpy  # noqa: F401
import openai.resources.chat  # noqa: F401
import rich.progress  # noqa: F401

import rft.evaluate.command
import rft.evaluate.endpoint
import rft.evaluate.judging
import rft.evaluate.run
import rft.evaluate.statistics
import rft.memory.command
import rft.memory.endpoint
import rft.report.charts
import rft.report.evaluation
from rft.cli import main


def start(job: dict) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(job.get("env", {}))
        os.chdir(job["cwd"])
        code = main(job["argv"])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    rft.report.charts.intervals = lambda *args, **options: ""
    for line in sys.stdin:
        pids = [start(job) for job in json.loads(line)]
        print(
            "answer " + json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]),
            flush=True,
        )
