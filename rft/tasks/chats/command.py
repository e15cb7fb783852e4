"""`rft chats import`: chats as people have them become one history per user.

Exit codes: 0 success; 1 the import is written, but a part of a file could not be read; 2 nothing is written.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rft.screen import counted, printable, screen
from rft.tasks.chats.formats import FORMATS
from rft.tasks.chats.importing import HISTORIES, RECORD, Settings, import_chats

USERS = 20
"""Users in the table; the others are in import.json."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `rft chats import`."""
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="an export as it was downloaded (zip), a JSON or JSON lines file, or a folder of them",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="output folder")
    parser.add_argument(
        "--format", choices=["auto", *FORMATS], default="auto", help="format of the files (default: auto)"
    )
    parser.add_argument(
        "--user", metavar="NAME", help="all chats are of this user (default: as the data say, else by file)"
    )
    parser.add_argument(
        "--replace-private",
        action="store_true",
        help="replace e-mail addresses, telephone, social security, card and account numbers (IBAN) and keys"
        " by [email] and so on",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier import in --out")


def run(args: argparse.Namespace) -> int:
    """Imports the chats and prints what was found."""
    settings = Settings(None if args.format == "auto" else args.format, args.user, args.replace_private)
    record = import_chats(args.sources, args.out, settings, args.overwrite)
    _print(record, args.out, screen(highlight=False))
    return 0 if all(file["read_to_its_end"] for file in record["files"]) else 1


def _print(record: dict[str, Any], out: Path, console: Console) -> None:
    users = record["users"]
    table = Table("user", title=str(out), box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("sessions", "messages", "changes", "dropped", "private"):
        table.add_column(column, justify="right")
    table.add_column("from", no_wrap=True)
    table.add_column("to", no_wrap=True)
    for user in list(users)[:USERS]:
        counts, messages = users[user], users[user]["messages"]
        numbers = (
            counts["conversations"]["kept"],
            messages["kept"],
            sum(messages["mapped"].values()),
            sum(messages["dropped"].values()),
            sum(counts.get("private", {}).values()),
        )
        days = (str(counts.get(day) or "")[:10] for day in ("first", "last"))
        table.add_row(escape(printable(user)), *(f"{number:,}" for number in numbers), *days)
    console.print(table)
    if len(users) > USERS:
        console.print(f"and {len(users) - USERS:,} more users in {RECORD}")
    everyone = users.values()
    dropped = [c["conversations"]["dropped"] for c in everyone] + [f["dropped"] for f in record["files"]]
    _reasons("conversations dropped", dropped, console)
    _reasons("messages dropped", [c["messages"]["dropped"] for c in everyone], console)
    _reasons("messages changed", [c["messages"]["mapped"] for c in everyone], console)
    replaced = (
        "replaced" if record["settings"]["replace_private"] else "kept; --replace-private replaces them"
    )
    _reasons(f"private items ({replaced})", [c.get("private", {}) for c in everyone], console)
    if undated := sum(c.get("sessions_without_date", 0) for c in everyone):
        console.print(f"conversations without a date, placed first: {undated:,}")
    done = "unchanged" if record["unchanged"] else "written"
    histories = counted(sum("history" in counts for counts in everyone), "history")
    where = f"{out / HISTORIES}: {histories}, {done}; all counts: {out / RECORD}"
    console.print(where, markup=False, soft_wrap=True)


def _reasons(title: str, counters: list[dict[str, int]], console: Console) -> None:
    """Prints the sums of counters on one line, unless they are all empty."""
    if sums := sum(map(Counter, counters), Counter[str]()):
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(sums.items()))
        console.print(f"{title}: {reasons}", markup=False, soft_wrap=True)
