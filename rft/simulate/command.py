"""`rft simulate`: generates a dataset of synthetic personas in the official layout, offline or with an LLM.

The offline profiles write the same bytes for the same seed.
"""

import argparse
from pathlib import Path

from rich.table import Table

from rft.errors import DataError
from rft.llm.settings import add_llm_options, llm_settings
from rft.screen import counted, screen
from rft.simulate.profile import PROFILES, QWEN, Settings

KEPT = "every finished persona and every reply that was paid for is kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rft simulate` to the parser."""
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default="mini",
        help=(
            "size of each persona. mini (default): about 450 tokens, 8 questions; middle: about 2,700 tokens,"
            " 8 questions; paper: 32k or 128k tokens, 27 questions of all types"
        ),
    )
    parser.add_argument("--personas", type=int, default=1000, help="number of personas (default 1000)")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed; the same seed gives the same bytes (default 0)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="new output folder; rerun an interrupted command to resume it"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing simulated dataset in --out"
    )
    parser.add_argument(
        "--window",
        nargs="+",
        choices=("32k", "128k"),
        help="history sizes to write (default 32k; mini: both)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="worker processes, or concurrent personas with an LLM (default 2; mini: 1)",
    )
    parser.add_argument(
        "--license", default="cc-by-4.0", help="license named in the dataset card (default cc-by-4.0)"
    )
    parser.add_argument(
        "--push-to-hub", metavar="REPO_ID", help="upload the finished dataset to this Hub dataset repository"
    )
    large = parser.add_argument_group("profiles middle and paper")
    large.add_argument(
        "--tokenizer", help=f"folder or Hub id of the tokenizer that counts history tokens (default {QWEN})"
    )
    large.add_argument(
        "--history-tokens", type=int, help="tokens per history, instead of the default of the window"
    )
    large.add_argument(
        "--topics", type=Path, help="custom topic list in the format of rft/simulate/words/topics.txt"
    )
    large.add_argument(
        "--persona-file", type=Path, help="custom people: JSON Lines with short_persona and any other keys"
    )
    llm = parser.add_argument_group("text written by an LLM, in profiles middle and paper")
    add_llm_options(llm)


def run(args: argparse.Namespace) -> int:
    """Runs `rft simulate` and returns the exit code."""
    console = screen()
    from rft.simulate.pipeline import simulate
    from rft.tasks.audit import table_rows

    if bool(args.llm_base_url) != bool(args.llm_model):
        raise DataError("--llm-base-url and --llm-model are needed together; give both or neither")
    if args.workers is not None and args.workers < 1:
        raise DataError(f"--workers {args.workers}: expected 1 or more")
    # processes start in the time in which one writes hundreds of mini personas
    workers = args.workers or (1 if PROFILES[args.profile].style is None else 2)
    llm = llm_settings(args) if args.llm_model else None
    settings = Settings(
        args.profile,
        args.personas,
        args.seed,
        tuple(args.window or ()),
        args.tokenizer,
        args.history_tokens,
        args.topics,
        args.persona_file,
        llm,
        args.license,
    )
    record = simulate(settings, args.out, workers, args.overwrite, screen(stderr=True))
    counts = record["counts"]
    console.print(
        f"{args.out}: {counted(sum(counts['personas'].values()), 'persona')},"
        f" {counted(counts['preferences'], 'preference')}, {counted(counts['topics'], 'topic')}",
        soft_wrap=True,
    )
    console.print("questions: " + ", ".join(f"{s} {n:,}" for s, n in counts["questions"].items()))
    for window, (low, middle, high) in counts["tokens"].items():
        console.print(f"tokens per history at {window}: {low:,} to {high:,}, median {middle:,.0f}")
    if record["usage"]:
        console.print(
            "LLM: "
            + ", ".join(f"{name} {value:,.6g}" for name, value in record["usage"].items())
            + f"; {counted(sum(record['rejected'].values()), 'question')} rejected"
        )
    table = Table("audit (chance 25 %)", *record["audit"], title_justify="left")
    for label, cells in table_rows(record["audit"].values()).items():
        table.add_row(label, *cells)
    console.print(table)
    if args.push_to_hub:
        from rft.simulate.hub import push

        console.print(f"uploaded to {push(args.out, args.push_to_hub)}")
    return 0
