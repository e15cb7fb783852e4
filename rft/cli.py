"""The `rft` command: every subcommand is thin, and none is imported before it is asked for, so that `rft --help` is quick.

Exit codes: 0 done, 1 a check failed, 2 a mistake of the user's (one line on stderr), 75 a training that was told to leave
and left a checkpoint, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

from rft import __version__
from rft.errors import Interrupted, RftError, told
from rft.screen import leave_out_noise

# command -> (module, what it does); the module has add_arguments(parser) and run(args) -> exit code
COMMANDS = {
    "quickstart": ("rft.toy.quickstart", "from nothing to a trained tiny model and a report, on a laptop"),
    "simulate": ("rft.simulate.command", "write a dataset of made-up personas"),
    "data check": ("rft.data.check", "what a dataset holds, what is wrong with it, what can be guessed"),
    "evaluate": ("rft.evaluate.command", "ask a checkpoint every question of a split"),
    "compare": ("rft.evaluate.comparison", "paired differences between evaluations, over the same questions"),
    "memory": ("rft.memory.command", "write a memory from a chat, show it, answer from it (write|show|answer)"),
    "report": ("rft.report.training", "a training's curves and samples, as one page"),
    "merge": ("rft.train.merge", "a LoRA adapter and its base model as one checkpoint"),
    "bench": ("rft.bench.command", "what the prefix tree saves here: time, memory, exactness; a whole GPU (bench gpu)"),
}
TRAINING = {
    "base": ("rft.toy.pretrain", "the tiny base checkpoint, from scratch"),
    "sft": ("rft.train.sft", "the cold start: supervised fine-tuning"),
    "grpo": ("rft.train.grpo", "reinforcement fine-tuning with verifiable rewards"),
    "memory-sft": ("rft.train.memory_sft", "the cold start of the memory: updates and answers"),
    "memory-grpo": ("rft.train.memory_grpo", "reinforcement fine-tuning of the memory: one memory answers many questions"),
}  # module.train(argv): TRL-style recipes bring their own parser


def _help() -> str:
    lines = ["usage: rft COMMAND ...", "", "Reinforcement fine-tuning for personalization over long chat histories.", "",
             "commands (rft COMMAND --help tells more; trainings take --launch LAYOUT, see launch/):"]
    lines += [f"  {name:<12} {what}" for name, (_, what) in {**COMMANDS, **TRAINING}.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"rft {__version__}")
        return 0
    if words[0] in TRAINING:
        return _train(TRAINING[words[0]][0], words[1:])
    for name, (module, what) in COMMANDS.items():
        if words[: len(name.split())] == name.split():
            return _run(name, what, import_module(module), words[len(name.split()) :])
    print(f"error: no such command: {' '.join(words[:2])}\n\n{_help()}", file=sys.stderr)
    return 2


def _train(module: str, words: list[str]) -> int:
    from rft.launch import for_dry_run, launch, take_launch
    from rft.train.help import FLAGS

    try:
        layout, words = take_launch(words)
        if layout is not None and not set(FLAGS) & set(words):
            dry = for_dry_run(layout, module, words)
            if dry is None:
                return launch(layout, module, words)
            words = dry
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from rft.train.runner import run_main

    return run_main(import_module(module).train, words)


def _run(name: str, what: str, module: ModuleType, words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"rft {name}", description=what)
    module.add_arguments(parser)
    args = parser.parse_args(words)
    leave_out_noise()
    run: Callable[[argparse.Namespace], int] = module.run
    try:
        return run(args)
    except (RftError, OSError) as error:
        if (said := told(error)) is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        return 2
    except Interrupted as left:  # a training inside a longer command
        print(str(left), file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
