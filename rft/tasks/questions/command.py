"""`rft questions write`: lets an LLM write questions about one's own chats (docs/your_questions.md)."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from rft.errors import DataError
from rft.llm.settings import add_llm_options, llm_settings
from rft.models.options import number, positive
from rft.screen import counted, screen

WORKERS, PER_HISTORY, HELD_OUT = 4, 25, 0.1
REASONS = 8  # most frequent reasons that are printed
KEPT = "every reply that was paid for is kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rft questions write` to the parser."""
    parser.add_argument(
        "--chats",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with histories/*.json, as `rft chats import` writes it",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="new dataset folder; rerun an interrupted command to resume it",
    )
    parser.add_argument(
        "--per-history",
        type=positive,
        default=PER_HISTORY,
        metavar="N",
        help="maximum questions per history (default: %(default)s)",
    )
    parser.add_argument(
        "--held-out-users",
        type=lambda text: number(text, "a share of users, such as 0.1"),
        default=HELD_OUT,
        metavar="SHARE",
        help="share of users in benchmark; half as many are in val (default: %(default)s; 0: all in train)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--workers",
        type=positive,
        default=WORKERS,
        metavar="N",
        help="histories in work at the same time (default: %(default)s)",
    )
    add_llm_options(parser.add_argument_group("the LLM"), votes="--votes")


def run(args: argparse.Namespace) -> int:
    """Runs `rft questions write` and returns the exit code."""
    from rft.tasks.questions.pipeline import write_questions
    from rft.tasks.questions.writer import Settings

    if not (args.llm_base_url and args.llm_model):
        raise DataError("--llm-base-url and --llm-model are needed: they name the LLM that writes")
    settings = Settings(llm_settings(args), args.per_history, args.held_out_users, args.seed)
    made = write_questions(args.chats, args.out, settings, args.workers)
    say = screen(markup=False, highlight=False, soft_wrap=True).print

    def listed(counts: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {count:,.6g}" for name, count in counts.items())

    if made["unchanged"]:
        say(f"{args.out} already contains these questions; nothing was paid for")
    users = {name: len(people) for name, people in made["users"].items()}
    say(f"{args.out}: {counted(sum(made['questions'].values()), 'question')} ({listed(made['kinds'])})")
    say(f"questions by split: {listed(made['questions'])}")
    say(f"users by split, none in two: {listed(users)}")
    if not users["benchmark"]:
        say("no user is held out, so no evaluation on these questions is honest")
    say(f"preferences found: {listed(made['found'])}")
    if reasons := list(made["dropped"].items()):
        say(f"dropped: {sum(made['dropped'].values()):,}, each with its place in {args.out / 'dataset.json'}")
        for reason, count in reasons[:REASONS]:
            say(f"  {count:,}  {reason}")
    say(f"the gold is the longest option in {made['gold_is_longest']:.1%} (chance 25 %)")
    usage = made["usage"] if args.llm_price else {k: v for k, v in made["usage"].items() if k != "cost_usd"}
    say(f"LLM: {listed(usage)}")
    return 0
