"""What sharing the prefix saves, and that it changes nothing, measured on random weights: only shapes matter here.

Invariant: no figure flatters. The tree and what it is held against take turns, each at least three times, and medians count;
a speedup above the ceiling that arithmetic sets is noise and is not called a speedup; what is extrapolated says so.

command.py      `rft bench update|rollout|memory|gpu`
setting.py      a model's shape, a batch, a device      batch.py        its rows
policy.py       the model, as training runs it          device.py       memory, taken and free
arithmetic.py   operations and bytes                    stopwatch.py    turns, medians, CPU time
workload.py     the update that is timed                stock.py        the same by stock TRL
update.py       its seconds, ratios and memory
rollout.py      sampling the completions                exactness.py    errors of tree and rows
kernels.py      attention calls against float64         backends.py     FlashAttention, cuDNN: error, speed, log-sum-exp
longest.py      the longest history that fits           estimate.py     memory, by the dry run's estimate
training.py     a small real training                   parts.py        the parts of `gpu`, in a worker
gpu.py          their shares of the time                table.py        figures for people
"""
