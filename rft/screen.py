"""What a command shows. On a terminal it prints at the terminal's width; in a pipe or a log file, in lines long enough to be
read and searched; a larger COLUMNS counts. Lines of libraries that frighten and mean nothing are left out, by their words."""

import logging
from typing import Any

from rich.console import Console

WIDTH = 150


def screen(**settings: Any) -> Console:
    """rich's console, with its settings (`stderr=True`, `highlight=False`)."""
    console = Console(**settings)
    return console if console.is_terminal else Console(**settings, width=max(WIDTH, console.width))


def leave_out(logger_name: str, words: str) -> None:
    """Drops the lines of a library's logger that hold `words`."""
    logging.getLogger(logger_name).addFilter(lambda record: words not in record.getMessage())


def leave_out_noise() -> None:
    """Drops what every command would show on a machine without a GPU."""
    leave_out("DeepSpeed", "Setting accelerator to CPU. If you have GPU or other accelerator")
