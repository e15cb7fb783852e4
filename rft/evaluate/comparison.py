"""`rft compare`: paired differences between evaluation runs, overall and per category.

Invariant: only answers to the same questions are compared, question by question. Chance is measured over
personas: intervals resample personas, and the permutation test swaps the two runs persona by persona. Runs on
different data are never compared.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rft.errors import DataError
from rft.records.comparison import Against, ComparedRun, Comparison, Difference, SameAnswers
from rft.records.row import ResultRow, grouped, mean_scores
from rft.records.summary import Summary, read_summary
from rft.screen import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    write_whole(out / "comparison.json", comparison.to_text())
    write_comparison_report(comparison, runs, out / "report.html")
    for name, result in comparison.against.items():
        overall = result.all
        low, high = overall.ci95
        print(
            f"{name} against {comparison.first}: {100 * overall.difference:+.1f} points (95 %"
            f" interval {100 * low:+.1f} to {100 * high:+.1f}; permutation test p = {overall.p:.2g};"
            f" {counted(overall.n, 'question')}); {result.answers.same} of {result.answers.n} answers"
            " are the same word for word"
        )
    print(f"report: {out / 'report.html'}")
    return 0


class Evaluated(NamedTuple):
    """A finished evaluation: its summary and its rows."""

    summary: Summary
    rows: Sequence[ResultRow]


def read_runs(folders: Sequence[str | Path]) -> dict[str, Evaluated]:
    """Reads two or more finished runs.

    Returns:
        {name: run}; a name is the shortest end of the folder's path that is unique among the
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
    runs = {
        name: Evaluated(read_summary(path), read_rows(path))
        for name, path in zip(_names(paths), paths, strict=True)
    }
    (first, (about, rows)), *others = runs.items()
    for name, (summary, other_rows) in others:
        for key in SAME:
            if getattr(summary, key) != getattr(about, key):
                raise DataError(
                    f"{first} and {name} are runs on different data ({key}: {getattr(about, key)} and"
                    f" {getattr(summary, key)}); compare runs of the same dataset, split and window"
                )
        asked_freely = {row.question: row.open_ended for row in rows}
        if any(row.open_ended != asked_freely.get(row.question, row.open_ended) for row in other_rows):
            raise DataError(
                f"{first} and {name}: one is open-ended and one multiple choice; their scores cannot be"
                " compared"
            )
    return runs


def compare(runs: Mapping[str, Evaluated], seed: int = 0) -> Comparison:
    """Paired differences of each run from the first.

    Raises:
        DataError: two runs have no scored question in common.
    """
    first, *others = runs
    about = runs[first].summary
    return Comparison(
        first=first,
        data_sha256=about.data_sha256,
        split=about.split,
        window=about.window,
        runs={
            name: ComparedRun.model_validate(summary, from_attributes=True)
            for name, (summary, _) in runs.items()
        },
        against={
            name: _against(first, runs[first].rows, name, runs[name].rows, seed, about.by) for name in others
        },
    )


def _against(
    first: str,
    before: Sequence[ResultRow],
    name: str,
    after: Sequence[ResultRow],
    seed: int,
    report_by: Collection[str],
) -> Against:
    from rft.evaluate.statistics import breakdowns

    then, now = mean_scores(before), mean_scores(after)
    about = {row.question: row for row in after}
    pairs = [(about[question], then[question], now[question]) for question in now if question in then]
    if not pairs:
        raise DataError(f"{first} and {name} have no scored question in common")
    by: dict[str, dict[str, Difference]] = {}
    for category, values in breakdowns([row for row, _, _ in pairs], report_by).items():
        groups = grouped(zip(values, pairs, strict=True))
        by[category] = _corrected({value: _cell(groups[value], seed) for value in sorted(groups)})
    return Against(all=_cell(pairs, seed), by=by, answers=_same_answers(before, after))


def _same_answers(before: Sequence[ResultRow], after: Sequence[ResultRow]) -> SameAnswers:
    """Counts equal completions among the shared rows: shows what another engine, batch or dtype changes for
    one model."""
    then = {row.id: row.completion for row in before}
    both = [row.completion == then[row.id] for row in after if row.id in then]
    return SameAnswers(same=sum(both), n=len(both))


def _cell(pairs: Sequence[tuple[ResultRow, float, float]], seed: int) -> Difference:
    from rft.evaluate.interval import by_persona, interval_of_ratio

    differences = [now - then for _, then, now in pairs]
    total_P, count_P = by_persona(
        [(row.persona_id, d) for (row, _, _), d in zip(pairs, differences, strict=True)]
    )
    n = len(pairs)
    return Difference(
        difference=sum(differences) / n,
        ci95=interval_of_ratio(total_P, count_P, -1.0, 1.0, seed),
        p=permutation_test(total_P, seed),
        n=n,
        personas=len(count_P),
        accuracy=sum(now for _, _, now in pairs) / n,
        first_accuracy=sum(then for _, then, _ in pairs) / n,
        better=sum(d > 0 for d in differences),
        worse=sum(d < 0 for d in differences),
    )


def permutation_test(total_P: "NDArray[np.float64]", seed: int = 0) -> float:
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


def _corrected(cells: Mapping[str, Difference]) -> dict[str, Difference]:
    """Holm's step-down correction, within one category."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, (value, cell) in enumerate(sorted(cells.items(), key=lambda item: item[1].p)):
        largest = max(largest, min(1.0, cell.p * (len(cells) - rank)))
        corrected[value] = largest
    return {value: cell.model_copy(update={"p_holm": corrected[value]}) for value, cell in cells.items()}


def _names(paths: Sequence[Path]) -> list[str]:
    lengths = range(1, max(len(path.parts) for path in paths) + 1)
    names_of = (["/".join(path.parts[-length:]) for path in paths] for length in lengths)
    return next(names for names in names_of if len(set(names)) == len(names))
