"""Where a command prints: the terminal, at its width; in a pipe or a log file, lines long enough to be read and searched; a
larger COLUMNS counts."""

from typing import Any

from rich.console import Console

WIDTH = 150


def screen(**settings: Any) -> Console:
    """rich's console, with its settings (`stderr=True`, `highlight=False`)."""
    console = Console(**settings)
    return console if console.is_terminal else Console(**settings, width=max(WIDTH, console.width))
