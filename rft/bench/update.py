"""One training update (log-probs, entropies and gradients of GRPO's loss) in three ways: through the tree; by
plain rows, one at a time with logits for the completion only, which is the fair baseline of `speedup`; and by
stock TRL.

The baselines are timed on a few rows and extrapolated to all of them by arithmetic (`baseline_extrapolated`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from rft.bench import device
from rft.bench.arithmetic import peak_flops, speedup, update_flops
from rft.bench.batch import Batch, some
from rft.bench.policy import estimated_bytes, held_bytes
from rft.bench.setting import Setting
from rft.bench.stopwatch import LEAST, in_turns, once
from rft.bench.workload import Update

Say = Callable[[dict[str, Any]], None]
"""A function that is called with all figures so far, whenever there are new ones."""


def update(
    setting: Setting,
    batch: Batch,
    *,
    stock: bool = True,
    tree_only: bool = False,
    repeats: int = LEAST,
    baseline_rows: int = 4,
    seconds: float = math.inf,
    say: Say = lambda figures: None,
) -> dict[str, Any]:
    """Measures seconds, ratios, errors and peak bytes, by name.

    Args:
        setting: the model and the device.
        batch: the rows, and the lengths of their prompts.
        stock: also time stock TRL. Its rows must have completions of equal length.
        tree_only: skip the baselines.
        repeats: how often each path is timed.
        baseline_rows: number of rows on which the baselines are timed; 0 for all.
        seconds: available time. If it is too short, baselines are timed on one row, or are skipped by name.
        say: called with the figures so far.
    """
    work = Update(setting, batch)
    tree = work.tree()
    total, whole = update_flops(setting, tree), work.flops(work.all)
    figures: dict[str, Any] = {
        "tokens": len(tree.tokens_T),
        "token_ratio": tree.token_ratio,
        "ceiling": whole / total,
    }
    work.warm_up()
    first, (figures["tree_peak_bytes"], _) = once(
        setting.device, lambda: device.peak(setting.device, work.shared)
    )
    figures["update_estimated_bytes"] = estimated_bytes(
        setting, work.model, len(tree.tokens_T), len(tree.labels_N)
    )
    if figures["tree_peak_bytes"] is not None:
        figures["update_bytes"] = held_bytes(work.model) + figures["tree_peak_bytes"]
    say(figures)

    few = some(len(work.rows), baseline_rows)
    left = seconds - first
    paths: dict[str, Callable[[], Any]] = {"tree": work.shared}
    if not tree_only:
        few, names, skipped = affordable(work, few, ["plain", *["trl"] * stock], first / total, left, repeats)
        figures |= {"skipped": skipped} if skipped else {}
        if "plain" in names:
            figures["plain_peak_bytes"], _ = device.peak(setting.device, lambda: work.plain(few[:1]))
            paths["plain"] = lambda: work.plain(few)
        if "trl" in names:
            paths |= _stock_path(work, few, figures)
    times, others = in_turns(setting.device, paths, repeats)
    figures |= (
        others | times["tree"].figures("tree", setting.device) | rates(setting, total, times["tree"].seconds)
    )
    factor = whole / work.flops(few)
    if len(few) < len(work.rows) and len(paths) > 1:
        figures["baseline_extrapolated"] = f"from {len(few)} of {len(work.rows)} rows, by arithmetic"
    for name, shown in (("plain", "speedup"), ("trl", "speedup_over_trl")):
        if name in paths:
            figures |= times[name].figures(name, setting.device, factor)
            speedup(figures, shown, name)
    if "plain" in paths:
        rows_BC, few_BC = times["plain"].result, times["tree"].result[few]
        figures["max_logprob_error"] = (rows_BC - few_BC).abs().max().item()
    say(figures)
    return figures


def affordable(
    work: Update, few: list[int], names: list[str], pace: float, left: float, repeats: int
) -> tuple[list[int], list[str], list[str]]:
    """Chooses the baselines that can be timed in the time left.

    Args:
        work: the update.
        few: the rows on which the baselines should be timed.
        names: the baselines.
        pace: the tree's seconds per operation.
        left: the time left, in seconds.
        repeats: how often each path is timed.

    Returns:
        The rows to use, the baselines to time, and a line for each skipped one.
    """
    total = update_flops(work.setting, work.tree())
    for rows in (few, few[:1]):
        repeat_seconds = pace * work.flops(rows) * 1.3  # the baselines are slower per operation than the tree
        for count in range(len(names), 0, -1):
            if pace * total * repeats + repeat_seconds * (repeats + 1) * count <= left:
                late = [
                    f"{name}: needs {repeat_seconds * (repeats + 1):.0f} s, more than the time left"
                    for name in names[count:]
                ]
                return rows, names[:count], late
    return few, [], [f"{name}: not enough time for {repeats} repeats" for name in names]


def _stock_path(work: Update, few: list[int], figures: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Returns stock TRL at its best micro-batch size, if it is installed."""
    try:
        from rft.bench.stock import StockTRL

        stock = StockTRL(work)
    except ImportError as error:
        figures.setdefault("skipped", []).append(f"stock TRL: {error}; install trl to time it")
        return {}
    size, figures["trl_peak_bytes"] = stock.best_micro_batch(few)
    figures["trl_micro_batch"] = size
    return {"trl": lambda: stock.run(few, size)}


def rates(setting: Setting, flops: float, seconds: Sequence[float]) -> dict[str, float]:
    """Returns operations per second at the median time, and their share of the device's peak."""
    rate = flops / sorted(seconds)[len(seconds) // 2]
    peak = peak_flops(device.name(setting.device), setting.dtype) if setting.device == "cuda" else None
    return {"tree_flops_per_second": rate, **({} if peak is None else {"tree_mfu": rate / peak})}
