"""Reads the files of a benchmark as its authors publish them.

Invariant: a file that cannot be read, or a row without what it needs, is an error with one line that names
the file, the row and what was expected.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rft.errors import DataError
from rft.tasks.chats.values import Broken, items

CHUNK = 4 * 2**20  # characters read at a time
NAMES = {str: "text", int: "whole number", list: "list", dict: "object"}


def read_list(path: Path) -> list[Any]:
    """Returns the content of a JSON file that contains a list. Raises DataError otherwise."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise broken(path, error) from None
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a JSON list, found {type_name(content)}")
    return content


def json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (index, object) for each object of a JSON list, holding one at a time in memory.

    Raises:
        DataError: the file cannot be read, is not a list of objects, or ends early.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            start = stream.read(CHUNK).lstrip()
            if not start.startswith("["):
                raise DataError(f"{path}: expected a JSON list of objects")
            for index, (_, value) in enumerate(items(start, stream, CHUNK, strict=True)):
                where = f"{path}: row {index}"
                if isinstance(value, Broken):
                    raise DataError(f"{where}: {value.reason}; download the file again")
                if not isinstance(value, dict):
                    raise DataError(f"{where}: expected an object, found {type_name(value)}")
                yield index, value
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise broken(path, error) from None


def field(record: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Returns `record[key]`, which must be of this type. A bool is no whole number.

    Args:
        record: an object of a source file.
        key: key in it.
        kind: expected type or types.
        where: file and row, for the error message.

    Raises:
        DataError: the record is no object, the key is missing, or the value has another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    expected = " or ".join(NAMES[k] for k in kinds)
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: expected an object with {key!r}, found {type_name(record)}")
    if key not in record:
        raise DataError(f"{where}: no {key!r}; expected a {expected} there")
    value = record[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise DataError(f"{where}: {key!r} is {type_name(value)}; expected a {expected}")
    return value


def text_field(record: Any, key: str, where: str) -> str:
    """Returns the text at `record[key]` without white space around it. Raises DataError if it is missing,
    empty or not a text."""
    text: str = field(record, key, str, where).strip()
    if not text:
        raise DataError(f"{where}: {key!r} is empty; expected a text")
    return text


def type_name(value: object) -> str:
    """Returns what a JSON value is, for an error message."""
    return "null" if value is None else NAMES.get(type(value), type(value).__name__)


def unreadable(path: Path, error: OSError) -> DataError:
    """Returns the error for a file that the operating system does not give."""
    return DataError(f"{path}: cannot read this file: {error.strerror or error}")


def broken(path: Path, error: Exception) -> DataError:
    """Returns the error for a file whose content is not UTF-8 JSON."""
    return DataError(f"{path}: not UTF-8 JSON ({error}); download the file again, it may be incomplete")
