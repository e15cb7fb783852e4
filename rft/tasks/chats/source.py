"""The files of one source: a file, a folder, or a zip as it was downloaded.

A zip is never extracted: the conversations in it are read as a stream, and names in it are never paths. In a
folder or a zip, `conversations.json` and its numbered parts are one person's export; in another folder, each
JSON file and each zip is one user's.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from rft.errors import DataError
from rft.tasks.chats.draft import printable

EXPORT = re.compile(r"conversations([-_]\d+)?\.json")
SUFFIXES = (".json", ".jsonl")
SHOWN = 5  # names of files in a zip that are listed in an error
FAILURES = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a file or a zip (damaged, encrypted, of an unknown method) raises."""


class Unreadable(Exception):
    """A file cannot be read, or not to its end; the message is the reason."""


@dataclass(frozen=True)
class Source:
    """One file of chats.

    Attributes:
        name: how messages to the user name it.
        user: the user, if the data name none.
        origin: the file, zip or folder that gives the user's name.
        path: the file, or the zip that contains it.
        member: the file's name in the zip; None if it is in none.
        size: bytes.
    """

    name: str
    user: str
    origin: Path
    path: Path
    member: str | None
    size: int

    @contextmanager
    def open(self, advance: Callable[[int], None]) -> Iterator[BinaryIO]:
        """Opens the file; `advance` gets the number of bytes of each read.

        Raises:
            Unreadable: here, or while the file is read.
        """
        with ExitStack() as opened:
            try:
                if self.member is None:
                    file: IO[bytes] = opened.enter_context(open(self.path, "rb"))
                else:
                    archive = opened.enter_context(zipfile.ZipFile(self.path))
                    file = opened.enter_context(archive.open(self.member))
            except FAILURES as error:
                raise Unreadable(_why(error)) from None
            yield io.BufferedReader(_Counted(file, advance))


class _Counted(io.RawIOBase):
    def __init__(self, file: IO[bytes], advance: Callable[[int], None]):
        self.file, self.advance = file, advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            content = self.file.read(len(buffer))
        except FAILURES as error:
            raise Unreadable(_why(error)) from None
        buffer[: len(content)] = content
        self.advance(len(content))
        return len(content)


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def find(paths: list[Path]) -> list[Source]:
    """Returns the files of all sources, in the order given.

    Raises:
        DataError: a path does not exist, is given twice, is a broken zip, or contains no chats.
    """
    found: list[Source] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; give a chat export or a file of chats")
        if path.is_dir():
            found += _folder(path)
        elif path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            found += _zip(path)
        else:
            found.append(_file(path))
    seen: set[tuple[Path, str | None]] = set()
    for source in found:
        key = (source.path.resolve(), source.member)
        if key in seen:
            raise DataError(f"{source.name}: given twice; give each file once")
        seen.add(key)
    return found


def _file(path: Path, user: str = "") -> Source:
    export = bool(EXPORT.fullmatch(path.name))
    origin = path.resolve().parent if export else path.resolve()
    user = user or (origin.name if export else path.stem)
    return Source(str(path), user, origin, path, None, path.stat().st_size)


def _folder(folder: Path) -> list[Source]:
    everything = sorted(path for path in folder.iterdir() if path.is_file())
    files = [path for path in everything if path.suffix.lower() in SUFFIXES]
    zips = [path for path in everything if path.suffix.lower() == ".zip"]
    if not files and not zips:
        raise DataError(f"{folder}: no {', '.join(SUFFIXES)} or .zip file in it; give the files of chats")
    export = [path for path in files if EXPORT.fullmatch(path.name)]
    if not export:
        return [_file(path) for path in files] + [source for path in zips for source in _zip(path)]
    for path in zips:  # an export can contain zips that its user had sent
        if zipfile.is_zipfile(path) and _chats(_entries(path)):
            raise DataError(
                f"{folder}: {export[0].name} and {path.name} are both exports, perhaps of the same chats;"
                " give the files to import one by one"
            )
    return [_file(path) for path in export]


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [entry for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: a broken zip ({error}); download it again") from None


def _chats(entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    chats = [entry for entry in entries if EXPORT.fullmatch(PurePosixPath(entry.filename).name)]
    return sorted(chats, key=lambda entry: entry.filename)


def _zip(path: Path) -> list[Source]:
    entries = _entries(path)
    chats = _chats(entries)
    if not chats:
        names = ", ".join(printable(entry.filename) for entry in entries[:SHOWN])
        raise DataError(f"{path}: no conversations.json in this zip; it contains {names or 'nothing'}")
    return [
        Source(
            f"{path}: {printable(entry.filename)}",
            path.stem,
            path.resolve(),
            path,
            entry.filename,
            entry.file_size,
        )
        for entry in chats
    ]
