"""What the user sees while chats are read: a bar on a terminal, in a log a line now and then, and what is
wrong with the data, one line each.
"""

from collections import Counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from rft.screen import screen

SHOWN = 20
"""Lines of one file that are shown; the others are counted."""
LINE_EVERY = 64 * 2**20  # bytes


class Reading:
    """Progress over the bytes of all files. Use it as a context manager.

    Args:
        size: bytes of all files.
        console: where to print (default: stderr).
    """

    def __init__(self, size: int, console: Console | None = None):
        self.console, self.size, self.done = console or screen(stderr=True), size, 0
        self.bar = Progress(
            TextColumn("reading chats"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=size)
        self.lines: Counter[str] = Counter()

    def __enter__(self) -> "Reading":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()
        for name, lines in self.lines.items():
            if lines > SHOWN:
                self.say(f"{name}: {lines - SHOWN} more problems; import.json lists them")

    def advance(self, count: int) -> None:
        """Moves on by a number of bytes."""
        before, self.done = self.done, self.done + count
        self.bar.update(self.task, completed=self.done)
        if not self.console.is_terminal and before // LINE_EVERY != self.done // LINE_EVERY:
            self.say(f"reading chats: {self.done >> 20} of {self.size >> 20} MiB")

    def problem(self, name: str, text: str) -> None:
        """Prints what is wrong in a file."""
        self.lines[name] += 1
        if self.lines[name] <= SHOWN:
            self.say(f"{name}: {text}")

    def say(self, line: str) -> None:
        """Prints one line."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
