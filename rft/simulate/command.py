"""`rft simulate`: a dataset of made-up personas in the official layout, offline or by an LLM, the same for the same seed."""

import argparse
from pathlib import Path

from rich.table import Table

from rft.errors import DataError
from rft.screen import screen

PROFILES = ("mini", "middle", "paper")
QWEN = "Qwen/Qwen3-4B-Instruct-2507"
ONLY_LARGE = {"window": None, "tokenizer": None, "history_tokens": None, "topics": None, "persona_file": None,
              "llm_base_url": None, "push_to_hub": None, "overwrite": False}  # no use for mini; with their defaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=PROFILES, default="mini",
                        help="mini: about 450 tokens, eight questions a persona (default); middle: about 2,700 tokens, eight; "
                        "paper: 32k or 128k tokens, 27 questions of all types")
    parser.add_argument("--personas", type=int, default=1000, help="number of personas (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="a new folder; an interrupted run goes on where it stopped")
    parser.add_argument("--overwrite", action="store_true", help="replace another simulated dataset in --out")
    large = parser.add_argument_group("profiles middle and paper")
    large.add_argument("--window", nargs="+", choices=("32k", "128k"), help="histories to write (default 32k)")
    large.add_argument("--tokenizer", help=f"folder or Hub id of the tokenizer that counts the window's tokens (default {QWEN})")
    large.add_argument("--history-tokens", type=int, help="tokens of a history, instead of the window's own number")
    large.add_argument("--topics", type=Path, help="a topic list of your own, in the format of rft/simulate/words/topics.txt")
    large.add_argument("--persona-file", type=Path, help="people of your own: JSON lines with short_persona and anything else")
    large.add_argument("--workers", type=int, default=2, help="processes, or conversations with an LLM at a time (default 2)")
    large.add_argument("--license", default="cc-by-4.0", help="licence named in the dataset card (default cc-by-4.0)")
    large.add_argument("--push-to-hub", metavar="REPO_ID", help="upload the finished dataset to this private dataset repository")
    llm = parser.add_argument_group("written by an LLM")
    llm.add_argument("--llm-base-url", help="an OpenAI-compatible URL, such as http://localhost:8000/v1; key in OPENAI_API_KEY")
    llm.add_argument("--llm-model", help="the model's name there")
    llm.add_argument("--llm-price", type=float, nargs=2, metavar=("PROMPT", "COMPLETION"), help="USD for a million tokens")
    llm.add_argument("--llm-budget", type=float, help="stop before more than this many USD are spent; needs --llm-price")
    llm.add_argument("--llm-votes", type=int, default=3, help="judges for each check of a question (default 3)")
    llm.add_argument("--llm-timeout", type=float, default=120.0, help="seconds to wait for one answer (default 120)")
    llm.add_argument("--llm-attempts", type=int, default=5, help="attempts for each question and each answer (default 5)")


def run(args: argparse.Namespace) -> int:
    console = screen()
    if args.profile == "mini":
        for name, default in ONLY_LARGE.items():
            if getattr(args, name) != default:
                raise DataError(f"--{name.replace('_', '-')} has no meaning for --profile mini; use middle or paper")
        from rft.simulate.dataset import simulate_mini

        counts = simulate_mini(args.out, args.personas, args.seed)
        console.print(f"{args.out}: {args.personas} personas; questions: "
                      + ", ".join(f"{name} {count}" for name, count in counts.items()))
        return 0
    from rft.data.audit import lines
    from rft.simulate.pipeline import simulate
    from rft.simulate.profile import LlmSettings, Settings

    if bool(args.llm_base_url) != bool(args.llm_model):
        raise DataError("--llm-base-url and --llm-model go together; one of them is missing")
    if args.workers < 1:
        raise DataError(f"--workers {args.workers}: give 1 or more")
    llm = LlmSettings(args.llm_base_url, args.llm_model, tuple(args.llm_price) if args.llm_price else None, args.llm_budget,
                      args.llm_votes, args.llm_attempts, args.llm_timeout) if args.llm_model else None
    settings = Settings(args.profile, args.personas, args.seed, tuple(args.window or ["32k"]), args.tokenizer or QWEN,
                        args.history_tokens, args.topics, args.persona_file, llm, args.license)
    record = simulate(settings, args.out, args.workers, args.overwrite, screen(stderr=True))
    counts = record["counts"]
    console.print(f"{args.out}: {sum(counts['personas'].values()):,} personas, {counts['preferences']:,} preferences, "
                  f"{counts['topics']} topics; questions: " + ", ".join(f"{s} {n:,}" for s, n in counts["questions"].items()))
    for window, (low, middle, high) in counts["tokens"].items():
        console.print(f"tokens a history at {window}: {low:,} to {high:,}, median {middle:,.0f}")
    if record["usage"]:
        console.print("LLM: " + ", ".join(f"{name} {value:,.6g}" for name, value in record["usage"].items())
                      + f"; {sum(record['rejected'].values())} questions rejected")
    table = Table("audit (chance 25 %)", *record["audit"], title_justify="left")
    columns = [lines(audit) for audit in record["audit"].values()]
    for label in columns[0]:
        table.add_row(label, *(column[label] for column in columns))
    console.print(table)
    if args.push_to_hub:
        from rft.simulate.hub import push

        console.print(f"uploaded to {push(args.out, args.push_to_hub)}")
    return 0
