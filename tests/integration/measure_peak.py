"""A GRPO run of two steps: prints the bytes that its dry run estimates, and the most that tensors held at
once.

Tensors are counted as torch's allocator counts them, as on a GPU (`max_memory_allocated`): the process's
resident memory also has what malloc keeps of freed ones, here up to 600 MiB of 1,400 (measured 2026-11-22
with malloc_trim).
"""

import json
import sys

from torch.autograd.profiler import profile

from rft.plan import dry_run
from rft.train import grpo, runner


def main(argv: list[str]) -> None:
    estimated: list[float] = []
    original = dry_run.peak
    dry_run.peak = lambda parts: estimated.append(original(parts)) or estimated[-1]
    runner.run_main(grpo.train, [*argv, "--dry_run"])
    weights: list[int] = []
    watch = profile(use_cpu=True, profile_memory=True)
    load = runner.load_policy

    def noting(*args):
        model = load(*args)
        weights.append(sum(p.nbytes for p in model.parameters()))
        watch.__enter__()
        return model

    runner.load_policy = noting
    code = runner.run_main(grpo.train, argv)
    watch.__exit__(None, None, None)
    assert code == 0
    events = [event for event in watch.kineto_results.events() if event.name() == "[memory]"]
    held = most = weights[0]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    print("figures " + json.dumps({"estimated": estimated[0], "measured": most, "events": len(events)}))


if __name__ == "__main__":
    main(sys.argv[1:])
