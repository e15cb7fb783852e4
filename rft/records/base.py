"""What all records have in common: a version, reading with one-line errors, and writing.

Invariant: a record is written from its model and read by it. Keys that a model does not know are kept, so
that a reader can add its own. A file without a version is read as version 1, whose keys it has.
"""

import json
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rft.errors import DataError

VERSION = 1
"""The version of the files that this rft writes and reads; raised when a key is renamed or removed."""
BEFORE_VERSIONS = "2026-11-27 (commit 8cf1065 or older)"

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A JSON object in a file. A key with a default may be missing; a key that was not given is not
    written."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    def dump(self) -> dict[str, Any]:
        """The record as plain JSON."""
        return self.model_dump(exclude_unset=True)

    def to_line(self) -> str:
        """The record as a line of a JSON Lines file, with its newline."""
        return json.dumps(self.dump(), ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """The record as the text of a JSON file."""
        return json.dumps(self.dump(), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: bytes | str, where: str, remedy: str) -> Self:
        """Reads a record.

        Args:
            text: the JSON.
            where: file and line, for messages.
            remedy: what the user can do about a broken record, for messages.

        Raises:
            DataError: not JSON, of another version, or a key is missing or has another type. The message
                names the place and the key.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise DataError(f"{where}: broken JSON ({error}); {remedy}") from None
        return cls.check(value, where, remedy)

    @classmethod
    def check(cls, value: object, where: str, remedy: str) -> Self:
        """Same as `parse`, for JSON that is already decoded."""
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected a JSON object, found {_short(value)}; {remedy}")
        version = value.get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise DataError(
                f"{where}: version {version}, written by a newer rft; this one reads version {VERSION};"
                " update rft"
            )
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            old = ""
            if issubclass(cls, Versioned) and "version" not in value:
                old = f" (it has no version, so an rft of {BEFORE_VERSIONS} wrote it and reads it)"
            raise DataError(f"{where}: {_first(error)}; {remedy}{old}") from None


class Versioned(Record):
    """A record with the version of its format."""

    version: Literal[1] = 1

    def dump(self) -> dict[str, Any]:
        """The record as plain JSON, its version first."""
        return {"version": VERSION} | super().dump()


def read_json(path: Path, model: type[R], remedy: str) -> R:
    """Reads a file with one record.

    Raises:
        DataError: as `Record.parse`, or the file cannot be read.
    """
    try:
        return model.parse(path.read_bytes(), str(path), remedy)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {remedy}") from None


def read_lines(path: Path, model: type[R], remedy: str) -> list[R]:
    """Reads a JSON Lines file.

    Raises:
        DataError: as `Record.parse`, or the file cannot be read. The message names the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot read it: {error.strerror or error}; {remedy}") from None
    return [model.parse(line, f"{path}: line {n}", remedy) for n, line in enumerate(lines, start=1)]


def _first(error: ValidationError) -> str:
    """The first thing that is wrong with a record, in words."""
    wrong = error.errors(include_url=False)[0]
    key = ".".join(map(str, wrong["loc"]))
    if wrong["type"] == "missing":
        return f"key {key} is missing"
    expected = wrong["msg"].removeprefix("Input should be ").partition(",")[0]
    return f"key {key}: expected {expected}, found {_short(wrong['input'])}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
