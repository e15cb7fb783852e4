"""Tables of figures. Noise is marked as noise, and extrapolated figures name their source."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from rft.screen import screen

GIB, MIB, TERA = 2**30, 2**20, 1e12
PATHS = {"trl": "stock TRL", "plain": "plain rows", "stock": "transformers generate", "tree": "prefix tree"}
MEANINGS = {
    "speedup": "x faster than plain rows (update) or generate (rollout)",
    "speedup_cpu": "x less CPU time",
    "speedup_over_trl": "x faster than stock TRL",
    "speedup_over_trl_cpu": "x less CPU time than stock TRL",
    "ceiling": "x: the ceiling by arithmetic",
    "token_ratio": "x fewer tokens",
    "tree_tokens_per_second": "tokens per second",
    "tree_token_seconds": "seconds per token, for all rows together",
    "tree_token_operations": "kernel launches (CPU: operators) per token",
    "tree_mfu": "share of the device's peak",
    "max_logprob_error": "largest error of a log-prob (nats)",
    "short_max_logprob_error": "largest error of a log-prob (nats), over a short batch",
    "max_grad_rel_error": "largest relative error of a gradient, over a short batch",
    "tree_error_to_float32": "mean error of the tree against float32 (nats)",
    "plain_error_to_float32": "mean error of plain rows against float32 (nats)",
    "tree_grad_error_to_float32": "largest relative error of a gradient against float32, tree",
    "plain_grad_error_to_float32": "largest relative error of a gradient against float32, plain rows",
}
SEEN = 256 * MIB  # a smaller peak is hidden by the other memory of the process
BUSY = 0.05  # share of the machine's CPU time above which other work is reported


def show(result: dict[str, Any]) -> None:
    """Prints the figures of `rft bench update`, `rollout` or `memory`: one line per path, then the
    conclusions."""
    title = "{what}: P={prompt_tokens} Q={questions} q={question_tokens} G={generations} ".format(**result)
    title += "C={completion_tokens}".format(**result)
    if result["what"] == "memory":
        title += " T={chunks} M={memory_tokens}".format(**result)
    columns = ["path", "seconds", "peak memory", ""]
    table = Table(*columns, title=f"{title}, {result['model']} on {result['device_name']}")
    for key, name in PATHS.items():
        if f"{key}_seconds" in result:
            table.add_row(
                name,
                f"{result[f'{key}_seconds']:.2f}",
                memory(result.get(f"{key}_peak_bytes")),
                note(result, key),
            )
    console = screen()
    console.print(table)
    for line in sayings(result):
        console.print(f"  {line}", highlight=False)


def note(figures: dict[str, Any], path: str) -> str:
    """Returns how a path was run."""
    description = {
        "trl": f"micro-batch {figures.get('trl_micro_batch')}",
        "plain": "one row at a time",
        "stock": f"{figures.get('stock_micro_batch')} rows at a time",
    }.get(path, "")
    extrapolated = figures.get("baseline_extrapolated")
    return f"{description}; extrapolated {extrapolated}" if extrapolated and path != "tree" else description


def sayings(figures: dict[str, Any]) -> Iterator[str]:
    """Yields one line per conclusion from the figures."""
    for key, meaning in MEANINGS.items():
        if figures.get(key) is not None:
            yield f"{figures[key]:>10.4g}  {meaning}"
        elif key in figures.get("noise", {}):
            yield (
                f"{'noise':>10}  {figures['noise'][key]:.3g} {meaning}: above the ceiling of"
                f" {figures['ceiling']:.3g}, so not a speedup; repeat it on an idle machine, or with longer"
                " rows"
            )
    if figures.get("others_cpu_share", 0.0) > BUSY:
        share = figures["others_cpu_share"]
        yield f"{share:>10.0%}  of the machine's CPU time went to other work: compare CPU times"
    if figures.get("update_bytes", 0) > SEEN:
        yield estimate(figures["update_bytes"], figures["update_estimated_bytes"])
    for line in figures.get("skipped", []):
        yield f"{'skipped':>10}  {line}"


def memory(size: float | None) -> str:
    """Formats bytes in MiB."""
    return "-" if size is None else f"{size / MIB:,.0f} MiB"


def estimate(measured: float, estimated: float) -> str:
    """Formats a measured peak with its estimate."""
    return (
        f"{measured / GIB:>10.4g}  GiB peak of an update without its optimizer; --dry-run estimates"
        f" {estimated / GIB:.4g} GiB ({estimated / measured - 1:+.0%})"
    )


def show_gpu(result: dict[str, Any]) -> None:
    """Prints the figures of `rft bench gpu` by part, with the reason if a part has none."""
    card = result["parts"].get("card", {}).get("figures", {})
    title = (
        f"{'rehearsal on ' if result['rehearsal'] else ''}{card.get('name', 'this device')}, {result['date']}"
    )
    table = Table("part", "figure", "", title=title)
    for name, part in result["parts"].items():
        rows = list(SUMMARIES[name](part["figures"], card)) if part["figures"] else []
        if part["status"] != "done":
            rows.append((part["status"], part.get("why", "")))
        for i, (figure, value) in enumerate(rows):
            table.add_row("" if i else name, figure, value)
        table.add_section()
    screen().print(table)


Rows = Iterator[tuple[str, str]]


def _card(figures: dict[str, Any], card: dict[str, Any]) -> Rows:
    versions = figures["versions"]
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    if "bytes" in figures:
        yield (
            "memory",
            f"{figures['bytes'] / GIB:.1f} GiB, CUDA {figures['cuda']}, capability {figures['capability']}",
        )
    yield "a large product", f"{figures['product_flops_per_second'] / TERA:.4g} TFLOP/s in bfloat16"
    yield "a copy", f"{figures['copy_bytes_per_second'] / TERA:.3g} TB/s, reads and writes"
    for line in figures["notes"]:
        yield "note", line


def _kernels(figures: dict[str, Any], card: dict[str, Any]) -> Rows:
    for dtype in dict.fromkeys(case["dtype"] for case in figures["cases"]):
        cases = [case for case in figures["cases"] if case["dtype"] == dtype]
        ran = [case for case in cases if "error" in case]
        if ran:
            worst = max(ran, key=lambda case: case["error"] / max(case["yardstick"], 1e-12))
            errors = f"{worst['error']:.2g}, {worst['yardstick']:.2g} ({worst['case']}, {worst['of']})"
            right = f"{sum(case['right'] for case in ran)} of {len(ran)} shapes right"
            yield dtype, f"{right}; largest error, and plain attention's: {errors}"
        for case in cases:
            if "refused" in case:
                yield "refused", f"{case['case']}, {dtype}: {case['refused']}"
            elif not case["right"]:
                errors = f"{case['of']} error {case['error']:.2g}, plain {case['yardstick']:.2g}"
                yield "WRONG", f"{case['case']}, {dtype}: {errors}"
    for line in figures["skipped"]:
        yield "skipped", line


def _backends(figures: dict[str, Any], card: dict[str, Any]) -> Rows:
    for entry in figures["backends"]:
        if "refused" in entry:
            yield entry["backend"], f"not available: {entry['refused']}"
            continue
        ways = [
            f"{call} {entry['forward_flops_per_second'][call] / TERA:.4g} and {rate / TERA:.4g}"
            for call, rate in entry["backward_flops_per_second"].items()
        ]
        verdict = "" if entry["right"] else ", WRONG: its results cannot be merged"
        yield (
            entry["backend"],
            f"TFLOP/s forward and backward: {'; '.join(ways)}; merged error {entry['error']:.2g}{verdict}",
        )
    if "own_calls" in figures:
        one, apart = figures["own_calls"].values()
        yield (
            "own attention",
            f"{1e3 * one:.3g} ms in one call, {1e3 * apart:.3g} ms with long and short nodes in two calls",
        )
    choice = figures.get("cudnn", {})
    if "refused" in choice:
        yield "choice", f"FlashAttention attends all spans: {choice['refused']}"
    elif choice:
        least = choice.get("least_pairs")
        spans = "no span" if least is None else f"spans of {least:.2g} query-key pairs or more"
        cost = 1e3 * (choice["first_seconds"] - choice["seconds"])
        yield ("choice", f"cuDNN attends {spans} in training; a new length costs it {cost:.3g} ms")


def _paths(figures: dict[str, Any], card: dict[str, Any]) -> Rows:
    for key, name in PATHS.items():
        if f"{key}_seconds" in figures:
            how = note(figures, key)
            yield name, f"{figures[f'{key}_seconds']:.4g} s{f' ({how})' if how else ''}"
    product = card.get("product_flops_per_second")
    if product and "tree_flops_per_second" in figures:
        rate = figures["tree_flops_per_second"]
        yield "arithmetic", f"{rate / TERA:.4g} TFLOP/s, {rate / product:.0%} of the rate of a large product"
    if card.get("copy_bytes_per_second") and "tree_token_bytes" in figures:
        bound = figures["tree_token_bytes"] / card["copy_bytes_per_second"]
        yield (
            "a token",
            f"{1e3 * figures['tree_token_seconds']:.3g} ms; its memory reads alone take {1e3 * bound:.3g} ms",
        )
    for line in sayings(figures):
        figure, _, value = line.strip().partition("  ")
        yield figure, value.strip()
    if "exactness" in figures:
        yield "exactness", f"not measured: {figures['exactness']}"


def _longest(figures: dict[str, Any], card: dict[str, Any]) -> Rows:
    for entry in figures["lengths"]:
        name = f"{entry['prompt_tokens']:,} tokens"
        if "seconds" in entry:
            how = (
                f"one update with LoRA in {entry['seconds']:.4g} s (one pass,"
                f" {entry['flops_per_second'] / TERA:.4g} TFLOP/s)"
            )
            yield name, how
            if (entry["bytes"] or 0) > SEEN:
                yield "", estimate(entry["bytes"], entry["estimated_bytes"]).strip()
        else:
            yield name, f"not run: {entry['why_not']}"


def _training(figures: dict[str, Any], card: dict[str, Any]) -> Rows:
    for name, run_figures in figures.items():
        texts = [f"{run_figures['steps']} steps"]
        if "step_seconds" in run_figures:
            texts.append(f"{run_figures['step_seconds']:.3g} s each")
        for key in ("loss", "held_out/right_and_consistent", "reward"):
            if key in run_figures:
                texts.append(f"{key} {run_figures[key]['first']:.3g} -> {run_figures[key]['last']:.3g}")
        if "sampling/logp_difference_max" in run_figures:
            texts.append(
                "sampled and trained log-probs differ by at most"
                f" {run_figures['sampling/logp_difference_max']['largest']:.2g}"
            )
        yield name, ", ".join(texts)


SUMMARIES = {
    "card": _card,
    "kernels": _kernels,
    "backends": _backends,
    "update": _paths,
    "rollout": _paths,
    "longest": _longest,
    "training": _training,
    "smollm2-4k": _training,
    "smollm2-8k": _training,
}
