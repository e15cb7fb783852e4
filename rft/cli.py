"""The `rft` command. Every subcommand is thin and is imported only when it is called, so that `rft --help` is
fast.

Exit codes: 0 success; 1 a check failed; 2 user error (one line on stderr); 75 training interrupted by a
signal after saving a checkpoint; 130 interrupted by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

from rft.errors import Interrupted, RftError, told
from rft.screen import leave_out_noise
from rft.version import __version__

# command -> (module, help text); the module has add_arguments(parser) and run(args) -> exit code, and if the
# command resumes when it is repeated, KEPT: what an interruption does not lose
COMMANDS = {
    "quickstart": ("rft.toy.quickstart", "train a tiny model from scratch and write a report, on a laptop"),
    "simulate": ("rft.simulate.command", "generate a dataset of synthetic personas"),
    "data check": (
        "rft.tasks.check",
        "check a dataset: contents, errors, and answers that can be guessed without the history",
    ),
    "data convert": (
        "rft.tasks.convert",
        "convert a benchmark (PrefEval, LoCoMo, LongMemEval, PersonaMem v1) from its authors' files",
    ),
    "chats import": (
        "rft.tasks.chats.command",
        "make one history per user from chat exports and logs (ChatGPT, Claude, ShareGPT, OpenAI messages)",
    ),
    "questions write": (
        "rft.tasks.questions.command",
        "let an LLM write questions about your users' chats, checked by rules and votes",
    ),
    "evaluate": ("rft.evaluate.command", "evaluate a checkpoint on every question of a split"),
    "recipes": ("rft.recipes", "list the recipes that come with rft, print one, or copy one (show|copy)"),
    "compare": ("rft.evaluate.comparison", "compare evaluations of the same questions by paired differences"),
    "memory": (
        "rft.memory.command",
        "write a memory from a chat, show it, or answer from it (write|show|answer)",
    ),
    "report": ("rft.report.training", "write the curves and samples of a training run as one page"),
    "merge": ("rft.train.merge", "merge a LoRA adapter and its base model into one checkpoint"),
    "gguf": ("rft.models.gguf", "make a checkpoint that can be trained from a GGUF file"),
    "bench": (
        "rft.bench.command",
        "measure the time, memory and exactness of the prefix tree; benchmark a GPU (bench gpu)",
    ),
}
TRAINING = {
    "base": ("rft.toy.pretrain", "pretrain the tiny base checkpoint from scratch"),
    "sft": ("rft.train.sft", "supervised fine-tuning (cold start)"),
    "grpo": ("rft.train.grpo", "reinforcement fine-tuning with verifiable rewards"),
    "memory-sft": (
        "rft.train.memory_sft",
        "supervised fine-tuning of memory updates and answers (cold start)",
    ),
    "memory-grpo": (
        "rft.train.memory_grpo",
        "reinforcement fine-tuning of the memory; one memory answers many questions",
    ),
}  # each module has train(argv) and its own TRL-style parser


def _help() -> str:
    lines = [
        "usage: rft COMMAND ...",
        "",
        "Reinforcement fine-tuning for personalization over long chat histories.",
        "",
        "commands (details: rft COMMAND --help; training commands accept --launch LAYOUT):",
    ]
    lines += [f"  {name:<12} {what}" for name, (_, what) in {**COMMANDS, **TRAINING}.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code."""
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
    group = {name: what for name, (_, what) in COMMANDS.items() if name.startswith(f"{words[0]} ")}
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        lines = (f"  rft {name:<12} {what}" for name, what in group.items())
        print("\n".join([f"usage: rft {words[0]} COMMAND ...", "", *lines]))
        return 0
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
        from rft.train.runner import run_main

        train = import_module(module).train
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return run_main(train, words)


def _run(name: str, what: str, module: ModuleType, words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"rft {name}", description=what)
    module.add_arguments(parser)
    args = parser.parse_args(words)
    leave_out_noise()
    run: Callable[[argparse.Namespace], int] = module.run
    try:
        return run(args)
    except (RftError, OSError) as error:
        if (message := told(error)) is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    except Interrupted as left:  # training inside a longer command
        print(str(left), file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        kept = getattr(module, "KEPT", "")
        line = f"\nstopped; {kept}; run the same command again to resume" if kept else "interrupted"
        print(line, file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
