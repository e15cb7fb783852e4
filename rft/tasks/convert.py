"""`rft data convert`: a benchmark as its authors publish it, as a dataset folder of rft.

Invariant: what is printed is what dataset.json says. The licences of the benchmarks allow no copy in this
repository, so that everything is read from files that the user has.
"""

import argparse
from collections import Counter
from pathlib import Path
from types import ModuleType

from rft.screen import counted
from rft.tasks import locomo, longmemeval, personamem_v1, prefeval
from rft.tasks.dataset_writer import CARD, DatasetWriter

BENCHMARKS: dict[str, tuple[ModuleType, str]] = {
    "prefeval": (prefeval, "PrefEval: a stated preference, filler, a question"),
    "locomo": (locomo, "LoCoMo: long dated conversations of two people"),
    "longmemeval": (longmemeval, "LongMemEval: oracle, S or M"),
    "personamem_v1": (personamem_v1, "PersonaMem v1: 32k, 128k or 1M"),
}
SHOWN = 20  # dropped rows printed; dataset.json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `rft data convert`: one parser per benchmark, each with its own options."""
    benchmarks = parser.add_subparsers(dest="benchmark", metavar="NAME", required=True)
    for name, (module, what) in BENCHMARKS.items():
        own = benchmarks.add_parser(name, help=what, description=f"{what}. From {module.SOURCE}")
        own.add_argument("source", metavar="SOURCE", help="folder or file as its authors publish it")
        own.add_argument("--out", metavar="DIR", required=True, help="dataset folder to create")
        module.add_arguments(own)


def run(args: argparse.Namespace) -> int:
    """Converts a benchmark and prints what became of its rows. Returns the exit code."""
    module, _ = BENCHMARKS[args.benchmark]
    with DatasetWriter(
        Path(args.out).expanduser(),
        name=args.benchmark,
        source=module.SOURCE,
        license=module.LICENSE,
        report_by=module.REPORT_BY,
        published=module.PUBLISHED,
    ) as dataset:
        module.convert(Path(args.source).expanduser(), dataset, args)
    print(
        f"{args.out}: "
        + ", ".join(f"{counted(count, 'question')} in {name}" for name, count in dataset.counts.items())
    )
    for reason, count in Counter(drop.reason for drop in dataset.dropped).items():
        print(f"dropped {count}: {reason}")
    for drop in dataset.dropped[:SHOWN]:
        print(f"  {drop.where}: {drop.reason}")
    if len(dataset.dropped) > SHOWN:
        print(f"  and {len(dataset.dropped) - SHOWN} more, all of them in {args.out}/{CARD}")
    for note in dataset.notes:
        print(f"note: {note}")
    print(f"licence: {module.LICENSE} ({module.SOURCE})")
    return 0
