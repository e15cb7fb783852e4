"""The whole house in small: simulate, cold start, GRPO, evaluation and report, on a laptop, from one command.

Every stage is the real one: the same scripts, recipes and evaluation that serve Qwen3-4B, on a tiny Qwen3. A stage that is done is
not done again when the command is repeated, and a training stage that was cut off resumes from its checkpoint.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from rft.errors import DataError

RECIPES = Path(__file__).resolve().parent.parent / "recipes" / "quickstart"
PERSONAS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints, evaluations and report.html")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data and of both trainings (default 0)")
    parser.add_argument("--scratch", action="store_true", help="train the tiny base checkpoint too, instead of the shipped one")
    parser.add_argument("--track", action="store_true", help="log both trainings to W&B (WANDB_MODE=offline needs no account)")


class Stages:
    """Which stages of a run are done and how many seconds each took, kept in `stages.json`."""

    def __init__(self, out: Path, settings: dict[str, Any], console: Console):
        self.path, self.console = out / "stages.json", console
        record = json.loads(self.path.read_text()) if self.path.exists() else {"settings": settings, "seconds": {}}
        if record["settings"] != settings:
            raise DataError(f"{out}: holds a quickstart with settings {record['settings']}, not {settings}; name another --out")
        self.settings, self.seconds = settings, record["seconds"]

    def do(self, name: str, what: str, work: Callable[[], Any]) -> None:
        if name in self.seconds:
            self.console.print(f"[dim]{name}: done before[/dim]")
            return
        self.console.rule(f"{name}: {what}", align="left")
        start = time.time()
        work()
        self.seconds[name] = round(time.time() - start, 1)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"settings": self.settings, "seconds": self.seconds}, indent=1))
        os.replace(partial, self.path)


def run(args: argparse.Namespace) -> int:
    out: Path = args.out
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages(out, {"seed": args.seed, "personas": PERSONAS, "scratch": args.scratch}, console)
    data, sft, grpo = out / "data", out / "sft", out / "grpo"
    base = out / "base" if args.scratch else RECIPES / "base"

    from rft.simulate.dataset import simulate_mini

    stages.do("simulate", f"{PERSONAS} people, their chats and questions", lambda: simulate_mini(data, PERSONAS, args.seed, console))

    from rft.evaluate.report import write_quickstart_report
    from rft.evaluate.run import evaluate
    from rft.train.start import set_up_logging

    set_up_logging()
    common = ["--data", str(data), "--seed", str(args.seed), "--resume_from_checkpoint", "true",
              "--report_to", "wandb" if args.track else "none"]

    def train(script: str, model: Path, output: Path) -> None:
        from importlib import import_module

        import_module(f"rft.train.{script}").train(
            ["--config", str(RECIPES / f"{script}.yaml"), "--model_name_or_path", str(model), "--output_dir", str(output), *common])

    def ask(name: str, **how: Any) -> None:
        stages.do(f"evaluate_{name}", "people it never met", lambda: evaluate(
            data=data, split="benchmark", out=out / "evaluate" / name, seed=args.seed, console=console, **how))

    if args.scratch:
        from rft.train.base import train as train_base

        stages.do("base", "a tiny Qwen3 learns to read", lambda: train_base(
            ["--config", str(RECIPES / "base.yaml"), "--output_dir", str(base), "--resume_from_checkpoint", "true"]))
    stages.do("sft", "cold start: the form of an answer, and half of the skill", lambda: train("sft", base, sft))
    ask("sft", model=str(sft))
    stages.do("grpo", "reinforcement from verifiable rewards", lambda: train("grpo", sft, grpo))
    ask("grpo", model=str(grpo))
    ask("blind", model=str(grpo), context="none")
    ask("longest_option", rule="longest")

    names = ("blind", "longest_option", "sft", "grpo")
    summaries = {name: json.loads((out / "evaluate" / name / "summary.json").read_text()) for name in names}
    curves = {"SFT loss": _curve(sft, "loss"), "GRPO reward": _curve(grpo, "reward")}
    summary = {**summaries, "seconds": stages.seconds}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_quickstart_report(out / "report.html", summaries=summaries, curves=curves, seconds=stages.seconds,
                            results={name: _results(out / "evaluate" / name) for name in ("sft", "grpo")})
    _say_what_was_learned(console, out, summaries, stages.seconds)
    return 0


def _results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def _curve(folder: Path, key: str) -> list[tuple[int, float]]:
    """(step, value) pairs of a training run, from the trainer state that is saved with it."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry[key]) for entry in history if key in entry]


def _say_what_was_learned(console: Console, out: Path, summaries: dict[str, dict], seconds: dict[str, float]) -> None:
    def says(name: str) -> str:
        summary = summaries[name]
        low, high = summary["ci95"]
        return f"{summary['accuracy']:6.1%}  [{low:.1%}, {high:.1%}]"

    gained = summaries["grpo"]["accuracy"] - summaries["sft"]["accuracy"]
    console.rule("what was learned", align="left")
    console.print(f"  longest option  {says('longest_option')}   a rule that reads nothing")
    console.print(f"  blind           {says('blind')}   the trained model without the history")
    console.print(f"  cold start      {says('sft')}   after SFT")
    console.print(f"  GRPO            {says('grpo')}   {gained * 100:+.1f} points from rewards alone, on people it never met")
    console.print(f"  {sum(seconds.values()):.0f} seconds in all; report: {out / 'report.html'}")
