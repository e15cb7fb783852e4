"""Console output of commands.

Output has the width of the terminal. In a pipe or a log file the width is `WIDTH`, or COLUMNS if that is
larger, so that lines can be read and searched. Misleading log lines of libraries are filtered out by their
text.
"""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

WIDTH = 150


def screen(**settings: Any) -> "Console":
    """Returns a rich console with the given settings (for example `stderr=True`, `highlight=False`)."""
    from rich.console import Console  # not at the top: `rft --help` needs none

    console = Console(**settings)
    return console if console.is_terminal else Console(**settings, width=max(WIDTH, console.width))


def progress(what: str, console: "Console") -> "Progress":
    """Returns a bar that goes when it is done: what is done, how many are, the time that remains, and the
    `note` of its task."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, as in "1 history" or "2,550 histories"."""
    if number == 1:
        return f"1 {noun}"
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith(("s", "ch")) else "s")
    return f"{number:,} {plural}"


def printable(text: str) -> str:
    """Returns a text of others without what could control a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def leave_out(logger_name: str, words: str) -> None:
    """Drops the lines of a library's logger that contain `words`."""
    logging.getLogger(logger_name).addFilter(lambda record: words not in record.getMessage())


def leave_out_noise() -> None:
    """Drops a warning that every command would print on a machine without a GPU."""
    leave_out("DeepSpeed", "Setting accelerator to CPU. If you have GPU or other accelerator")
