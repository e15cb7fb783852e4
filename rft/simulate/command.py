"""`rft simulate`: a dataset of made-up personas in the official layout, offline and the same for the same seed."""

import argparse
from pathlib import Path

from rich.console import Console

from rft.simulate.dataset import simulate_mini


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=["mini"], default="mini",
                        help="mini: short histories (about 450 tokens), eight questions a persona")
    parser.add_argument("--personas", type=int, default=1000, help="number of personas (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")


def run(args: argparse.Namespace) -> int:
    counts = simulate_mini(args.out, args.personas, args.seed)
    Console().print(f"{args.out}: {args.personas} personas; questions: "
                    + ", ".join(f"{name} {count}" for name, count in counts.items()))
    return 0
