"""`rft memory write|show|answer`: writes a readable memory from a chat file, shows it, and answers questions
from it.

`write` stores the memory after every chunk. After Ctrl-C, the same command resumes at the next chunk.
"""

import argparse
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rft.data.history import read_history
from rft.errors import DataError
from rft.memory import store, text
from rft.memory.agent import MemorySettings
from rft.memory.memory import Memory
from rft.memory.write import Turn
from rft.models.budget import Budget
from rft.models.endpoint import Endpoint
from rft.models.options import add_options
from rft.screen import counted, screen

if TYPE_CHECKING:
    from rich.console import Console

    from rft.models.local import LocalModel

logger = logging.getLogger(__name__)

KEPT = "every chunk read so far is stored"
MARKS = {"kept": ("  ", "dim"), "added": ("+ ", "green"), "removed": ("- ", "red")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands of `rft memory`."""
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="read a chat into a memory, chunk by chunk")
    showing = commands.add_parser("show", help="show a memory and how it grew")
    answering = commands.add_parser("answer", help="answer a question from a memory alone")
    for command in (writing, answering):
        command.add_argument(
            "--model",
            required=True,
            metavar="PATH|NAME",
            help="checkpoint folder or Hub id, or the model's name at --base-url",
        )
        add_options(command, "base-url", "api-key-env")
        command.add_argument(
            "--dtype", default="auto", help="dtype of the weights: float32 or bfloat16 (default: as stored)"
        )
        command.add_argument(
            "--temperature", type=float, default=0.0, help="sampling temperature (default: 0, greedy)"
        )
        command.add_argument("--seed", type=int, default=0, help="random seed for sampling (default: 0)")
    writing.add_argument(
        "--history",
        required=True,
        type=Path,
        metavar="FILE",
        help="chat as a JSON list of {role, content}, or a history that `rft chats import` made",
    )
    writing.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="memory file, e.g. memory.md; continued if it exists",
    )
    writing.add_argument(
        "--chunk-tokens",
        type=int,
        default=MemorySettings.chunk_tokens,
        help="maximum tokens per history chunk (default: %(default)s)",
    )
    add_options(writing, "price", "budget")
    writing.add_argument("--max-chunks", type=int, help="read only the N most recent chunks (default: all)")
    for command in (showing, answering):
        command.add_argument("--memory", required=True, type=Path, metavar="FILE", help="memory file to read")
    for command in (writing, answering):
        command.add_argument(
            "--memory-tokens",
            type=int,
            default=MemorySettings.memory_tokens,
            help="token budget of the memory (default: %(default)s)",
        )
    answering.add_argument(
        "--max-new-tokens", type=int, default=1024, help="maximum tokens of the answer (default: %(default)s)"
    )
    answering.add_argument("question", help="question of the user")


def run(args: argparse.Namespace) -> int:
    """Runs `rft memory` and returns its exit code."""
    if args.command != "write" and not args.memory.is_file():
        raise DataError(f"{args.memory}: no such memory; create one with `rft memory write`")
    console = screen(highlight=False)
    {"write": _write, "show": _show, "answer": _answer}[args.command](args, console)
    return 0


def _write(args: argparse.Namespace, console: "Console") -> None:
    """Reads the unread chunks and prints what each update changes."""
    history = read_history(args.history)
    if not args.base_url:
        for option in ("api_key_env", "price", "budget"):
            if getattr(args, option) is not None:
                logger.warning("--%s is ignored: the model runs on this machine", option.replace("_", "-"))
    memory = _memory(args, args.out)
    with memory.store() as memory_store:
        start = time.monotonic()
        agent, reading = memory.agent, memory.reading(history, memory_store)
        chunks = agent.chunks(history)
        done = memory_store.unread(chunks)
        console.print(
            f"{args.history}: {counted(len(history.turns), 'message')} in {counted(len(chunks), 'chunk')}"
            + (f", {done} of them already read" if done else ""),
            markup=False,
        )
        if memory_store.edited:
            console.print(f"{args.out}: edited by hand; continuing from the edited text", markup=False)
        for turn in reading:
            print_turn(turn, agent.count(turn.update.memory), console)
        tokens = agent.count(memory.text)
    record = memory_store.record
    counts = (record.input_tokens, record.output_tokens)
    read, written = ("not given" if count is None else f"{count:,}" for count in counts)
    cut, empty = sum(turn.cut for turn in record.turns), sum(turn.empty for turn in record.turns)
    console.print(
        f"{args.out}: {counted(tokens, 'token')}"
        f" after {counted(len(record.turns), 'chunk')}; updates too long and cut: {cut}, empty: {empty};"
        f" tokens read: {read}, written: {written};"
        f" {counted(len(chunks) - done, 'chunk')} in {time.monotonic() - start:.1f} s",
        markup=False,
    )


def print_turn(turn: Turn, tokens: int, console: "Console") -> None:
    """Prints what an update changed in the memory, as a line diff."""
    remarks = ["too long, cut after the last complete bullet"] * turn.update.cut + [
        "no bullet written, memory unchanged"
    ] * turn.update.empty
    console.rule(
        f"chunk {turn.number} of {turn.of} · {tokens} tokens" + "".join(f" · {word}" for word in remarks),
        align="left",
    )
    print_changes(turn.before, turn.update.memory, console)


def print_changes(before: str, after: str, console: "Console") -> None:
    """Prints a line diff; unchanged lines are counted, not shown."""
    changes = text.changes(before, after)
    for kind, line in changes:
        if kind != "kept":
            console.print(MARKS[kind][0] + line.removeprefix("- "), style=MARKS[kind][1], markup=False)
    console.print(f"  {counted(sum(kind == 'kept' for kind, _ in changes), 'line')} kept", style="dim")


def _show(args: argparse.Namespace, console: "Console") -> None:
    record, before = store.read_record(args.memory), ""
    for number, turn in enumerate(record.turns if record else [], start=1):
        if turn.edited is not None:
            _show_edit(before, turn.edited, console)
            before = turn.edited
        console.rule(f"chunk {number} · messages {turn.first} to {turn.last}", align="left")
        print_changes(before, turn.memory, console)
        before = turn.memory
    memory = store.read_memory(args.memory, sys.maxsize, len)
    if record and memory != before:
        _show_edit(before, memory, console)
    console.rule(str(args.memory), align="left")
    console.print(memory or "(empty)", markup=False)


def _show_edit(before: str, after: str, console: "Console") -> None:
    console.rule("edited by hand", align="left")
    print_changes(before, after, console)


def _answer(args: argparse.Namespace, console: "Console") -> None:
    memory = _memory(args, args.memory)
    answer = memory.answer(args.question, args.max_new_tokens)
    console.print(text.CONTROL.sub("", answer), markup=False)


def _memory(args: argparse.Namespace, path: Path) -> Memory:
    try:
        settings = MemorySettings(
            getattr(args, "chunk_tokens", MemorySettings.chunk_tokens),
            args.memory_tokens,
            getattr(args, "max_chunks", None),
        )
    except ValueError as error:
        raise DataError(f"--{str(error).replace('_', '-')}") from None
    return Memory(path, _model(args), **asdict(settings), temperature=args.temperature, seed=args.seed)


def _model(args: argparse.Namespace) -> "Endpoint | LocalModel":
    if not args.base_url:
        from rft.models.local import LocalModel

        return LocalModel(args.model, dtype=args.dtype)
    price, limit = getattr(args, "price", None), getattr(args, "budget", None)
    if args.dtype != "auto":
        logger.warning("--dtype is ignored: the model is behind a URL")
    budget = Budget(limit, args.out.with_name(f".{args.out.name}.spent")) if limit is not None else None
    return Endpoint(
        args.base_url,
        args.model,
        key_variable=args.api_key_env,
        price=(price[0], price[1]) if price else None,
        budget=budget,
    )
