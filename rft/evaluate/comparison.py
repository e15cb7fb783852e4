"""`rft compare`: paired differences between evaluation runs, overall and per category.

Invariant: only answers to the same questions are compared, question by question. Chance is measured over
personas: intervals resample personas, and the permutation test swaps the two runs persona by persona. Runs on
different data are never compared.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rft.errors import DataError
from rft.report.row import Row

PERMUTATIONS = 10_000
SAME = ("data_sha256", "split", "window")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rft compare`."""
    parser.add_argument(
        "runs", nargs="+", metavar="DIR", help="folders of `rft evaluate`; each is compared with the first"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for comparison.json and report.html"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed for bootstrap and permutations (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    """Compares the runs, prints one line per run, writes the files and returns exit code 0."""
    from rft.files import write_whole
    from rft.report.evaluation import write_comparison_report

    runs = read_runs(args.runs)
    comparison = compare(runs, args.seed)
    out = Path(args.out).expanduser()
    write_whole(out / "comparison.json", json.dumps(comparison, indent=1, ensure_ascii=False) + "\n")
    write_comparison_report(comparison, runs, out / "report.html")
    for name, found in comparison["against"].items():
        low, high = found["all"]["ci95"]
        print(
            f"{name} against {comparison['first']}: {100 * found['all']['difference']:+.1f} points (95 %"
            f" interval {100 * low:+.1f} to {100 * high:+.1f}; permutation test p = {found['all']['p']:.2g};"
            f" {found['all']['n']} questions); {found['answers']['same']} of {found['answers']['n']} answers"
            " are the same word for word"
        )
    print(f"report: {out / 'report.html'}")
    return 0


def read_runs(folders: Sequence[str | Path]) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Reads two or more finished runs.

    Returns:
        {name: (summary, rows)}; a name is the shortest end of the folder's path that is unique among the
        runs.

    Raises:
        DataError: a folder is not a finished run, or the runs differ in their data or kind of question.
    """
    from rft.evaluate.results import read_rows

    if len(folders) < 2:
        raise DataError("rft compare: expected two or more folders of `rft evaluate`")
    paths = [Path(folder).expanduser() for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError("rft compare: the same folder is given twice; expected different runs")
    runs = {name: (_summary(path), read_rows(path)) for name, path in zip(_names(paths), paths, strict=True)}
    (first, (about, rows)), *others = runs.items()
    for name, (summary, theirs) in others:
        for key in SAME:
            if summary.get(key) != about.get(key):
                raise DataError(
                    f"{first} and {name} are runs on different data ({key}: {about.get(key)} and"
                    f" {summary.get(key)}); compare runs of the same dataset, split and window"
                )
        if bool(rows[0].get("open_ended")) != bool(theirs[0].get("open_ended")):
            raise DataError(
                f"{first} and {name}: one is open-ended and one multiple choice; their scores cannot be"
                " compared"
            )
    return runs


def compare(runs: Mapping[str, tuple[Mapping[str, Any], Sequence[Row]]], seed: int = 0) -> dict[str, Any]:
    """Paired differences of each run from the first.

    Returns:
        first: name of the first run.
        runs: {name: {model, context, accuracy, ci95, n, settings}}.
        against: {name: {all: cell, by: {category: {value: cell}}, answers: {same, n}}}; answers counts
            completions that are the same word for word.

        A cell contains: difference (mean over the questions answered in both runs; positive if the first run
        is worse), ci95, p (two-sided permutation test over personas), p_holm (p corrected for the values of
        its category by Holm's method), n, personas, accuracy and first_accuracy on these questions, better
        and worse (number of questions on which the run scores more or less than the first).

    Raises:
        DataError: two runs have no scored question in common.
    """
    first, *others = runs
    return {
        "first": first,
        **{key: runs[first][0].get(key) for key in SAME},
        "runs": {
            name: {key: summary.get(key) for key in ("model", "context", "accuracy", "ci95", "n", "settings")}
            for name, (summary, _) in runs.items()
        },
        "against": {name: _against(first, runs[first][1], name, runs[name][1], seed) for name in others},
    }


def _against(first: str, before: Sequence[Row], name: str, after: Sequence[Row], seed: int) -> dict[str, Any]:
    from rft.evaluate.statistics import CATEGORIES
    from rft.report.row import mean_scores, question_of

    then, now = mean_scores(before), mean_scores(after)
    about = {question_of(row): row for row in after}
    pairs = [(about[question], then[question], now[question]) for question in now if question in then]
    if not pairs:
        raise DataError(f"{first} and {name} have no scored question in common")
    by: dict[str, dict[str, Any]] = {}
    for category, value_of in CATEGORIES.items():
        values = sorted({value_of(row) for row, _, _ in pairs})
        by[category] = {
            value: _cell([pair for pair in pairs if value_of(pair[0]) == value], seed) for value in values
        }
        _correct(by[category])
    return {"all": _cell(pairs, seed), "by": by, "answers": _same_answers(before, after)}


def _same_answers(before: Sequence[Row], after: Sequence[Row]) -> dict[str, int]:
    """Counts equal completions among the shared rows: shows what another engine, batch or dtype changes for
    one model."""
    then = {row["id"]: row["completion"] for row in before}
    both = [row["completion"] == then[row["id"]] for row in after if row["id"] in then]
    return {"same": sum(both), "n": len(both)}


def _cell(pairs: Sequence[tuple[Row, float, float]], seed: int) -> dict[str, Any]:
    from rft.evaluate.statistics import by_persona, interval_of_ratio

    differences = [now - then for _, then, now in pairs]
    total_P, count_P = by_persona(
        [(row["persona_id"], d) for (row, _, _), d in zip(pairs, differences, strict=True)]
    )
    n = len(pairs)
    return {
        "difference": sum(differences) / n,
        "ci95": interval_of_ratio(total_P, count_P, -1.0, 1.0, seed),
        "p": permutation_test(total_P, seed),
        "n": n,
        "personas": len(count_P),
        "accuracy": sum(now for _, _, now in pairs) / n,
        "first_accuracy": sum(then for _, then, _ in pairs) / n,
        "better": sum(d > 0 for d in differences),
        "worse": sum(d < 0 for d in differences),
    }


def permutation_test(total_P: Any, seed: int = 0) -> float:
    """The two-sided p-value of the hypothesis that the two runs are interchangeable for every persona.

    All swaps are tried if there are at most 10,000. Otherwise 10,000 are drawn at random, and p also counts
    the observed assignment (Phipson and Smyth, 2010).

    Args:
        total_P: sum of the differences of each of the P personas.
        seed: seed of the random swaps.
    """
    import numpy as np
    from scipy import stats

    total_P = total_P[np.abs(total_P) > 1e-12]  # swapping the other personas changes nothing
    if len(total_P) < 2:  # a single sign changes nothing
        return 1.0
    test = stats.permutation_test(
        (total_P,),
        lambda swapped_RP, axis: np.abs(swapped_RP.sum(axis)),
        permutation_type="samples",  # of one sample: sign flips
        vectorized=True,
        n_resamples=PERMUTATIONS,
        alternative="greater",
        rng=seed,
    )
    return float(test.pvalue)


def _correct(cells: Mapping[str, dict[str, Any]]) -> None:
    """Holm's step-down correction, within one category."""
    largest = 0.0
    for rank, cell in enumerate(sorted(cells.values(), key=lambda cell: cell["p"])):
        largest = max(largest, min(1.0, cell["p"] * (len(cells) - rank)))
        cell["p_holm"] = largest


def _summary(path: Path) -> dict[str, Any]:
    file = path / "summary.json"
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{file}: {error.strerror or error}; expected the folder of a finished `rft evaluate`"
        ) from None
    except ValueError as error:
        raise DataError(f"{file}: broken JSON ({error}); run the evaluation again to rewrite it") from None
    if not isinstance(summary, dict) or not summary.get("data_sha256"):
        raise DataError(f"{file}: no data_sha256; expected the summary of `rft evaluate`")
    return summary


def _names(paths: Sequence[Path]) -> list[str]:
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
