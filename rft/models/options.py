"""Command line options of a model behind a URL.

Invariant: an option means the same in every command, under any prefix. Its value is None if it was not given,
so that a command can tell; `ENDPOINT` has the values that then hold.
"""

import argparse
from typing import Any

ENDPOINT: dict[str, Any] = {
    "api_key_env": None,
    "concurrency": 8,
    "attempts": 6,
    "timeout": 600.0,
    "price": None,
}


def positive(text: str) -> int:
    """Parses an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, found {text!r}")
    return int(text)


def number(text: str, least: str = "a number of at least 0") -> float:
    """Parses a finite number of at least 0; `least` describes it in the error."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {least}, found {text!r}")
    return value


def dollars(text: str) -> float:
    """Parses an amount of money."""
    return number(text, "dollars, at least 0")


def seconds(text: str) -> float:
    """Parses a time."""
    return number(text, "seconds, at least 0")


OPTIONS: dict[str, dict[str, Any]] = {
    "base-url": {
        "metavar": "URL",
        "help": "URL of an OpenAI-compatible server, such as http://localhost:8000/v1",
    },
    "api-key-env": {
        "metavar": "NAME",
        "help": "environment variable that contains the key (default: OPENAI_API_KEY, if set)",
    },
    "concurrency": {"type": positive, "metavar": "N", "help": "maximum calls in flight (default: 8)"},
    "attempts": {"type": positive, "metavar": "N", "help": "maximum attempts per call (default: 6)"},
    "timeout": {
        "type": seconds,
        "metavar": "SECONDS",
        "help": "timeout per attempt, in seconds (default: 600)",
    },
    "price": {
        "type": dollars,
        "nargs": 2,
        "metavar": ("IN", "OUT"),
        "help": "dollars per million input and output tokens",
    },
    "budget": {
        "type": dollars,
        "metavar": "DOLLARS",
        "help": "maximum dollars to spend on --out, in all runs and by judges too; needs prices",
    },
}


def add_options(parser: Any, *names: str, prefix: str = "") -> None:
    """Adds the options `names` to a parser or a group of it, as --`prefix`NAME."""
    for name in names:
        parser.add_argument(f"--{prefix}{name}", **OPTIONS[name])
