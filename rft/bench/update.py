"""One training update (log-probs, entropies and gradients of GRPO's loss) three ways: through the tree; by plain rows, one at a
time with logits for the completion alone, the fair baseline that `speedup` is against; and by stock TRL.

The baselines are timed on a few rows and scaled by arithmetic to all of them (`baseline_extrapolated`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from rft.bench import device
from rft.bench.arithmetic import peak_flops, speedup, update_flops
from rft.bench.batch import Batch, some
from rft.bench.estimate import estimated_bytes
from rft.bench.policy import held_bytes
from rft.bench.setting import Setting
from rft.bench.stopwatch import LEAST, in_turns, once
from rft.bench.workload import Update
from rft.prefix_tree.layout import Tree

Say = Callable[[dict[str, Any]], None]
"""Told the figures so far whenever there are more."""


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
    """Seconds, ratios, errors and peak bytes, by name.

    Args:
        stock: time stock TRL too, whose rows must have equally long completions.
        tree_only: no baselines.
        repeats: how often each path is timed.
        baseline_rows: on how many rows the baselines are timed; 0 for all.
        seconds: the time there is. Baselines give way: they are timed on one row, or are skipped by name.
    """
    work = Update(setting, batch)
    tree = work.tree(work.all)
    total, whole = update_flops(setting, tree), work.flops(work.all)
    figures: dict[str, Any] = {"tokens": len(tree.tokens_T), "token_ratio": tree.token_ratio, "ceiling": whole / total}
    work.warm_up()
    first, (figures["tree_peak_bytes"], _) = once(setting.device, lambda: device.peak(setting.device, work.shared))
    figures |= memory(setting, work.model, tree, figures["tree_peak_bytes"])
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
    figures |= others | times["tree"].figures("tree", setting.device) | rates(setting, total, times["tree"].seconds)
    factor = whole / work.flops(few)
    if len(few) < len(work.rows) and len(paths) > 1:
        figures["baseline_extrapolated"] = f"from {len(few)} of {len(work.rows)} rows, by arithmetic"
    for name, shown in (("plain", "speedup"), ("trl", "speedup_over_trl")):
        if name not in paths:
            continue
        figures |= times[name].figures(name, setting.device, factor)
        speedup(figures, shown, figures[f"{name}_seconds"], figures["tree_seconds"], figures["ceiling"])
        if setting.device == "cpu":
            of_cpu = figures[f"{name}_cpu_seconds"], figures["tree_cpu_seconds"]
            speedup(figures, f"{shown}_cpu", *of_cpu, figures["ceiling"])
    if "plain" in paths:
        rows_BC, few_BC = times["plain"].result, times["tree"].result[few]
        figures["max_logprob_error"] = (rows_BC - few_BC).abs().max().item()
    say(figures)
    return figures


def affordable(
    work: Update, few: list[int], names: list[str], pace: float, left: float, repeats: int
) -> tuple[list[int], list[str], list[str]]:
    """What of the baselines can be timed in the time left: on which rows, which of them, and what is skipped, in words. pace: the
    tree's seconds an operation."""
    total = update_flops(work.setting, work.tree(work.all))
    for rows in (few, few[:1]):
        each = pace * work.flops(rows) * 1.3  # short of the tree's pace
        for count in range(len(names), 0, -1):
            if pace * total * repeats + each * (repeats + 1) * count <= left:
                late = [f"{name}: {each * (repeats + 1):.0f} s more than there are" for name in names[count:]]
                return rows, names[:count], late
    return few, [], [f"{name}: no time for {repeats} repeats" for name in names]


def _stock_path(work: Update, few: list[int], figures: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Stock TRL at its best micro-batch, if it is installed."""
    try:
        from rft.bench.stock import StockTRL

        stock = StockTRL(work)
    except ImportError as error:
        figures.setdefault("skipped", []).append(f"stock TRL: {error}; install trl to time it")
        return {}
    size, figures["trl_peak_bytes"] = stock.best_micro_batch(few)
    figures["trl_micro_batch"] = size
    return {"trl": lambda: stock.run(few, size)}


def memory(setting: Setting, model: Any, tree: Tree, beyond: int | None) -> dict[str, int]:
    """Peak bytes of an update without its optimizer, measured and as `--dry-run` estimates them. beyond: the most that was held
    beyond weights and gradients."""
    found = {"update_estimated_bytes": estimated_bytes(setting, model, len(tree.tokens_T), len(tree.labels_N))}
    return found if beyond is None else found | {"update_bytes": held_bytes(model) + beyond}


def rates(setting: Setting, flops: float, seconds: Sequence[float]) -> dict[str, float]:
    """Operations a second at the median of the times, and which share of the device's peak that is."""
    rate = flops / sorted(seconds)[len(seconds) // 2]
    peak = peak_flops(device.name(setting.device), setting.dtype) if setting.device == "cuda" else None
    return {"tree_flops_per_second": rate, **({} if peak is None else {"tree_mfu": rate / peak})}
