"""The complete pipeline at a small scale: simulate, cold start, GRPO, evaluation and report, on a laptop,
with one command.

Every stage is the real one: the same scripts, recipes and evaluation as for Qwen3-4B, on a tiny Qwen3. When
the command is repeated, finished stages are skipped, and an interrupted training stage resumes from its
checkpoint.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from rft import shipped
from rft.errors import DataError
from rft.files import write_whole
from rft.metrics.table import named
from rft.records.summary import SUMMARY, QuickstartSummary, read_summary
from rft.runs.account import check_account
from rft.screen import screen

RECIPES = shipped.RECIPES / "quickstart"
# 300 of them are held out: the baselines answer 2,400 questions, on which chance is 25 +- 1 %
PERSONAS = 3000
ANSWER_TOKENS = 48
# for the memory arm, on about 100 personas: each memory requires reading a whole history
MEMORY_QUESTIONS = 800
CHUNK_TOKENS, MEMORY_TOKENS = 240, 128  # as in memory_sft.yaml and memory_grpo.yaml
KEPT = "finished stages are kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `rft quickstart`."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/quickstart"),  # where the shipped recipes look for its data and checkpoints
        help="folder for data, checkpoints, evaluations and report.html (default out/quickstart)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the data and of training (default 0)"
    )
    parser.add_argument(
        "--scratch",
        action="store_true",
        help="also train the tiny base checkpoint, instead of the shipped one",
    )
    parser.add_argument("--memory", action="store_true", help="also train and evaluate the memory arm")
    parser.add_argument(
        "--track", action="store_true", help="log training to W&B (WANDB_MODE=offline needs no account)"
    )


class Stages:
    """Finished stages of a run and their time in seconds, stored in `stages.json`."""

    def __init__(self, out: Path, settings: dict[str, Any], console: Console):
        self.path, self.console = out / "stages.json", console
        record = (
            json.loads(self.path.read_text()) if self.path.exists() else {"settings": settings, "seconds": {}}
        )
        if record["settings"] != settings:
            raise DataError(
                f"{out}: has a quickstart with settings {record['settings']}, not {settings}; name another"
                " --out"
            )
        self.settings, self.seconds = settings, record["seconds"]

    def do(self, name: str, what: str, work: Callable[[], Any]) -> None:
        """Runs a stage and records its time, unless it is already done."""
        if name in self.seconds:
            self.console.print(f"[dim]{name}: already done[/dim]")
            return
        self.console.rule(f"{name}: {what}", align="left")
        start = time.time()
        work()
        self.seconds[name] = round(time.time() - start, 1)
        write_whole(self.path, json.dumps({"settings": self.settings, "seconds": self.seconds}, indent=1))


def run(args: argparse.Namespace) -> int:
    """Runs all stages and writes `summary.json` and `report.html`; returns the exit code."""
    if args.track:
        check_account()
    out: Path = args.out
    console = screen()
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages(out, {"seed": args.seed, "personas": PERSONAS, "scratch": args.scratch}, console)
    data, sft, grpo = out / "data", out / "sft", out / "grpo"
    base = out / "base" if args.scratch else RECIPES / "base"

    from rft.simulate.pipeline import simulate
    from rft.simulate.profile import Settings

    stages.do(
        "simulate",
        f"{PERSONAS} personas, their chats and questions",
        lambda: simulate(Settings("mini", PERSONAS, args.seed), data, console=console),
    )

    from rft.evaluate.memory import MEMORIES, Memory, MemoryAnswers
    from rft.evaluate.model_answers import ModelAnswers
    from rft.evaluate.results import read_rows
    from rft.evaluate.rules import RuleAnswers
    from rft.evaluate.run import evaluate
    from rft.evaluate.skill import SkilledRow, scored_consistently
    from rft.memory.agent import MemorySettings
    from rft.models.local import LocalModel
    from rft.report.evaluation import pairs, write_quickstart_report
    from rft.report.sentences import learned
    from rft.tasks.base import Split
    from rft.tasks.load import load_split
    from rft.train.runner import set_up_logging

    set_up_logging()
    held_out = load_split(data, "benchmark")
    common = [
        f"--data={data}",
        f"--seed={args.seed}",
        "--resume_from_checkpoint=true",
        f"--report_to={'wandb' if args.track else 'none'}",
    ]

    def train(script: str, model: Path, output: Path) -> None:
        recipe = ["--config", str(RECIPES / f"{script}.yaml")]
        words = [*recipe, f"--model_name_or_path={model}", f"--output_dir={output}", *common]
        import_module(f"rft.train.{script}").train(words)

    def ask(
        name: str,
        answerer: Callable[[], Any],
        split: Split = held_out,
        limit: int | None = None,
        reader: Path | None = None,
    ) -> None:
        asked = split.questions[:limit]

        def work() -> None:
            asked_of = answerer()
            read_by = asked_of.read_by(LocalModel(reader, dtype="float32")) if reader is not None else None
            evaluate(
                split,
                out / "evaluate" / name,
                asked_of,
                limit=limit,
                batch_size=32,
                seed=args.seed,
                console=console,
                reader=read_by,
            )

        stages.do(
            f"evaluate {name}",
            f"{len(asked)} questions about {len({q.history_id for q in asked})} held-out personas",
            work,
        )

    def answers(model: Path, context: str = "history") -> Callable[[], Any]:
        return lambda: ModelAnswers(LocalModel(model, dtype="float32"), context, max_new_tokens=ANSWER_TOKENS)

    def recalls(model: Path, name: str) -> Callable[[], Any]:
        return lambda: MemoryAnswers(
            Memory(
                LocalModel(model, dtype="float32"),
                out / "evaluate" / name / MEMORIES,
                MemorySettings(CHUNK_TOKENS, MEMORY_TOKENS),
                batch_size=32,
            ),
            ANSWER_TOKENS,
        )

    if args.scratch:
        from rft.toy.pretrain import train as train_base

        recipe = ["--config", str(RECIPES / "base.yaml")]
        words = [*recipe, f"--output_dir={base}", "--resume_from_checkpoint=true"]
        stages.do("base", "pre-training of the tiny Qwen3 on reading exercises", lambda: train_base(words))
    stages.do("sft", "cold start on few labels, until it stops improving", lambda: train("sft", base, sft))
    ask("sft", answers(sft))
    stages.do("grpo", "reinforcement learning from verifiable rewards", lambda: train("grpo", sft, grpo))
    ask("grpo", answers(grpo))
    ask("blind", answers(grpo, "none"))
    ask("longest_option", lambda: RuleAnswers("longest"))

    names = ["blind", "longest_option", "sft", "grpo"]
    curves = {
        "cold start: right and consistent on val": _curve(sft, "held_out/right_and_consistent"),
        "GRPO: reward": _curve(grpo, "reward"),
        "cold start: loss": _curve(sft, "loss"),
    }
    if args.memory:
        memory_sft, memory_grpo = out / "memory_sft", out / "memory_grpo"
        stages.do(
            "memory_sft",
            "cold start of the memory on few labels: updating it chunk by chunk, answering from it",
            lambda: train("memory_sft", base, memory_sft),
        )
        ask("memory_sft", recalls(memory_sft, "memory_sft"), held_out, MEMORY_QUESTIONS)
        stages.do(
            "memory_grpo",
            "reinforcement learning of the memory: one memory answers several questions",
            lambda: train("memory_grpo", memory_sft, memory_grpo),
        )
        # a reader that stays fixed
        ask("memory", recalls(memory_grpo, "memory"), held_out, MEMORY_QUESTIONS, reader=memory_sft)
        ask("forget", recalls(memory_grpo, "forget"), load_split(data, "forget"), MEMORY_QUESTIONS)
        names += ["memory_sft", "memory", "forget"]
        curves |= {
            "memory, cold start: lines right on val": _curve(memory_sft, "held_out/lines_right"),
            "memory GRPO: lines right on val": _curve(memory_grpo, "held_out/lines_right"),
            "memory GRPO: reward": _curve(memory_grpo, "reward"),
        }

    def scored(name: str) -> list[SkilledRow]:
        return [scored_consistently(row) for row in read_rows(folders[name])]

    folders = {name: out / "evaluate" / name for name in names}
    summaries = {name: read_summary(folder) for name, folder in folders.items()}
    write_whole(
        out / SUMMARY, QuickstartSummary.model_validate(summaries | {"seconds": stages.seconds}).to_text()
    )
    write_quickstart_report(
        out / "report.html",
        summaries=summaries,
        seconds=stages.seconds,
        curves=curves,
        transcripts=pairs(scored("sft"), scored("grpo")),
    )
    console.rule("results", align="left")
    for sentence in learned(summaries):
        console.print(sentence)
    console.print(
        f"{sum(stages.seconds.values()):.0f} seconds in total. Report: {out / 'report.html'}", style="bold"
    )
    return 0


def _curve(folder: Path, key: str) -> list[tuple[int, float]]:
    """Reads the (step, value) pairs of a metric of a training run from its saved trainer state."""
    key = named(key).name
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry[key]) for entry in history if key in entry]
