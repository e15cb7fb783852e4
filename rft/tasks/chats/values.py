"""Reads JSON values one at a time from a file of any size: the items of a list, or JSON lines.

Invariant: memory is bounded by the largest value, not by the file. A broken line does not stop the lines
after it. A list cannot be read beyond a broken item, so its last value is then a `Broken` that ends the file.

This uses Python's own JSON decoder on a growing window of text, because ijson's fast backends change data:
half a surrogate pair becomes "?" or ends the file, and so does a NUL byte or a byte that is not UTF-8. Here
such characters arrive as they are, and a byte that is not UTF-8 as `NOT_UTF8`; they are counted when the text
is cleaned.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, TextIO

WINDOW = 1 << 20  # characters
LONGEST_WORD = len("-Infinity")
BETWEEN = re.compile(r"[\s,]*")
NOT_UTF8 = "\ufdd0"  # for a byte that is not UTF-8; Unicode keeps this code for programs, no text contains it
MARK = "rft.mark_not_utf8"


@dataclass(frozen=True)
class Broken:
    """A value that cannot be read.

    Attributes:
        reason: what is wrong with it.
        last: whether everything after it is lost, too.
        remedy: what to do if it is.
    """

    reason: str
    last: bool
    remedy: str = "download or write the file again"


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return NOT_UTF8 * (error.end - error.start), error.end


codecs.register_error(MARK, _mark)


def values(file: BinaryIO, window: int = WINDOW) -> Iterator[tuple[str, Any]]:
    """Reads a list `[...]` item by item, JSON lines line by line, or one object.

    Args:
        file: UTF-8 bytes.
        window: number of characters to read at a time.

    Yields:
        (place, value); the place is "line N" or "item N", from 1. A value that cannot be read is a `Broken`.
    """
    stream = io.TextIOWrapper(file, "utf-8-sig", errors=MARK, newline="\n")
    number, first = 1, stream.readline(window)
    while first and not first.strip():
        number, first = number + 1, stream.readline(window)
    if "\0" in first[:4]:  # JSON begins with ASCII characters, each of which has a NUL byte there
        convert = "convert it with iconv -f utf-16 -t utf-8 OLD > NEW"
        yield f"line {number}", Broken("this is UTF-16, expected UTF-8", last=True, remedy=convert)
        return
    start = first.lstrip()[:1]
    if start == "{" and not first.endswith("\n"):
        first += stream.readline()
    if start not in ("[", "{"):
        if start:
            reason = "this is not JSON: expected a list, or one JSON object per line"
            yield f"line {number}", Broken(reason, last=True)
        return
    second = stream.readline(window)
    if _is_line(first, second):
        for n, line in enumerate(chain([first, second + _rest(second, stream)], stream), start=number):
            if line.strip():
                yield f"line {n}", _one(line)
        return
    yield from items(first.lstrip() + second, stream, window)


def _rest(line: str, stream: io.TextIOWrapper) -> str:
    return "" if not line or line.endswith("\n") else stream.readline()


def _is_line(first: str, second: str) -> bool:
    """Whether a file that starts with these two lines contains one value per line."""
    whole = not isinstance(_one(first), Broken)
    if first.lstrip().startswith("["):  # a list of a single line is read item by item
        return whole and bool(second.strip())
    return whole or (first.rstrip().endswith("}") and not isinstance(_one(second), Broken))


def _one(line: str) -> Any:
    try:
        return json.loads(line.strip(), strict=False)
    except (ValueError, RecursionError) as error:
        return Broken(_reason(error), last=False)


def _reason(error: Exception) -> str:
    return f"broken JSON ({error.msg if isinstance(error, json.JSONDecodeError) else error})"


def items(text: str, stream: TextIO, window: int, strict: bool = False) -> Iterator[tuple[str, Any]]:
    """Reads values that follow one another, in a list or not.

    Args:
        text: the beginning, without white space before it.
        stream: what follows.
        window: number of characters to read at a time.
        strict: whether control characters in a text make it a `Broken`.

    Yields:
        (place, value), as `values` does; a `Broken` is the last one.
    """
    decoder = json.JSONDecoder(strict=strict)
    in_list, number = text.startswith("["), 0
    at = int(in_list)
    while True:
        at = BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if at == len(text):
            text, at = stream.read(window), 0
            if not text:
                if in_list:
                    yield f"item {number + 1}", Broken("the file ends inside its list", last=True)
                return
            continue
        if in_list and text[at] == "]":
            return
        number += 1
        while True:
            try:
                value, end = decoder.raw_decode(text, at)
                cut = end == len(text) and not isinstance(value, dict | list)  # a number may continue
            except (ValueError, RecursionError) as error:
                value, cut = Broken(_reason(error), last=True), _is_cut(error, text)
            more = stream.read(max(window, len(text) - at)) if cut else ""
            if not more:
                break
            text, at = text[at:] + more, 0
        yield f"item {number}", value
        if isinstance(value, Broken):
            return
        at = end


def _is_cut(error: Exception, text: str) -> bool:
    """Whether the text only ends too early: the error is at its end, or in a string that is not closed."""
    return isinstance(error, json.JSONDecodeError) and (
        error.msg.startswith("Unterminated string") or error.pos >= len(text) - LONGEST_WORD
    )
