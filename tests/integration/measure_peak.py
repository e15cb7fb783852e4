"""A GRPO run of two steps: prints the bytes that its dry run estimates, and those that Linux counted beyond what was held
before."""

import ctypes
import json
import sys
from pathlib import Path

from rft.train import dry_run, grpo, start


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main(argv: list[str]) -> None:
    estimated: list[float] = []
    original = dry_run.peak
    dry_run.peak = lambda parts: estimated.append(original(parts)) or estimated[-1]
    start.run_main(grpo.train, [*argv, "--dry_run"])
    before: list[int] = []
    load = grpo.load_policy

    def noting(*args):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
        before.append(resident("VmRSS"))
        return load(*args)

    grpo.load_policy = noting
    assert start.run_main(grpo.train, argv) == 0
    print("figures " + json.dumps({"estimated": estimated[0], "measured": resident("VmHWM") - before[0]}))


if __name__ == "__main__":
    main(sys.argv[1:])
