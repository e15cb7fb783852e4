"""Benchmarks of prefix sharing: what it saves, and that it changes no result. Weights are random: only shapes
matter here.

Invariant: no figure flatters. The tree and its baselines take turns, each at least three times, and the
median counts. A speedup above the ceiling set by arithmetic is noise and is not called a speedup.
Extrapolated figures are marked as such.

command.py      `rft bench update|rollout|memory|gpu`
setting.py      model shape, batch and device           batch.py        rows of the batch
policy.py       the model, run as in training           device.py       used and free memory
arithmetic.py   operations and bytes                    stopwatch.py    turns, medians, CPU time
workload.py     the timed update                        stock.py        the same update in stock TRL
update.py       its seconds, ratios and memory          rollout.py      sampling the completions
exactness.py    errors of tree and rows                 kernels.py      attention calls against float64
backends.py     FlashAttention, cuDNN: error, speed     longest.py      the longest history that fits
training.py     a small real training run               table.py        tables to read
parts.py        the parts of `gpu`, in a worker         gpu.py          time shares of the parts
"""
