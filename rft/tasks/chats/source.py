"""The files of one source: a file, a folder, or a zip as it was downloaded.

A zip is never extracted: the conversations in it are read as a stream, and names in it are never paths. In a
folder or a zip, `conversations.json` and its numbered parts are one person's export; in another folder, each
JSON file and each zip is one user's. Folders in a folder or a zip are read alike, down to the last.

Invariant: a file of a source is read or left out with a reason; only hidden files and the import itself are
passed over. A link in a folder is not followed, so nothing outside the folder is read.
"""

import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from rft.errors import DataError
from rft.screen import printable

EXPORT = re.compile(r"conversations([-_]\d+)?\.json")
SUFFIXES = (".json", ".jsonl", ".ndjson")
BESIDE = "beside conversations.json; if one contains chats, import it as a file of its own"
COMPRESSED = "compressed; unpack with gunzip first"
LINK = "not a plain file; if it is a link, give what it leads to"
OTHER = "no JSON"
SHOWN = 5  # names of files in a zip that are listed in an error
NAMED = 20  # files left out that are named on one line
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


@dataclass(frozen=True)
class LeftOut:
    """Files of one source that are not read.

    Attributes:
        source: the folder or zip.
        reason: why they are not read.
        files: their names in the source; for files that are no JSON, how many there are of each kind.
    """

    source: str
    reason: str
    files: list[str]

    @property
    def listed(self) -> str:
        """The names on one line."""
        more = f" and {len(self.files) - NAMED} more" if len(self.files) > NAMED else ""
        return ", ".join(map(printable, self.files[:NAMED])) + more


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


def find(paths: list[Path], out: Path) -> tuple[list[Source], list[LeftOut]]:
    """Returns the files of all sources, in the order given, and what of the sources is not read.

    Args:
        paths: files, folders and zips.
        out: the folder of the import; it is passed over, so that a second import finds what the first did.

    Raises:
        DataError: a path does not exist, cannot be read, is given twice, is a broken zip, or contains no
            chats.
    """
    found: list[Source] = []
    left_out: list[LeftOut] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; give a chat export or a file of chats")
        if path.is_dir():
            reasons: dict[str, str] = {}
            try:
                files = _folder(path, path, out.resolve(), None, reasons)
            except OSError as error:
                raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
            here = _by_reason(str(path), reasons)
            if not files:
                kinds = ", ".join(SUFFIXES)
                why = "".join(f"; {left.listed}: {left.reason}" for left in here)
                raise DataError(
                    f"{path}: no {kinds} or .zip file in it or its folders; give the files of chats{why}"
                )
            found += files
            left_out += here
        elif path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            files, reasons = _zip(path)
            found += files
            left_out += _by_reason(str(path), reasons)
        elif path.suffix.lower() == ".gz":
            raise DataError(f"{path}: {COMPRESSED}")
        else:
            found.append(_file(path))
    seen: set[tuple[Path, str | None]] = set()
    for source in found:
        key = (source.path.resolve(), source.member)
        if key in seen:
            raise DataError(f"{source.name}: given twice; give each file once")
        seen.add(key)
    return found, left_out


def _by_reason(source: str, reasons: dict[str, str]) -> list[LeftOut]:
    """What is left out of a source, given the reason for each name; of other kinds, their numbers."""
    files: dict[str, list[str]] = {}
    kinds: Counter[str] = Counter()
    for name, reason in sorted(reasons.items()):
        if reason == OTHER:
            kinds[PurePosixPath(name).suffix.lower() or "without suffix"] += 1
        else:
            files.setdefault(reason, []).append(name)
    if kinds:
        files[OTHER] = [f"{number} {kind}" for kind, number in sorted(kinds.items())]
    return [LeftOut(source, reason, names) for reason, names in files.items()]


def _file(path: Path) -> Source:
    export = bool(EXPORT.fullmatch(path.name))
    origin = path.resolve().parent if export else path.resolve()
    return Source(str(path), origin.name if export else path.stem, origin, path, None, path.stat().st_size)


def _folder(
    folder: Path, top: Path, out: Path, export: Path | None, left_out: dict[str, str]
) -> list[Source]:
    """The files of a folder and of those in it.

    Args:
        folder: the folder.
        top: the folder that was given.
        out: the folder of the import, which is passed over.
        export: a `conversations.json` above it; what is not one is then left out.
        left_out: gets the reason for each file that is left out.
    """
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    export = next((path for path in paths if EXPORT.fullmatch(path.name) and path.is_file()), export)
    found: list[Source] = []
    for path in paths:
        suffix, name = path.suffix.lower(), path.relative_to(top).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            left_out[name] = LINK
        elif path.is_dir():
            if path.resolve() != out:
                found += _folder(path, top, out, export, left_out)
        elif suffix in SUFFIXES and (not export or EXPORT.fullmatch(path.name)):
            found.append(_file(path))
        elif suffix == ".zip" and not export:
            sources, others = _zip(path)
            found += sources
            left_out |= {f"{name}: {member}": reason for member, reason in others.items()}
        elif export and suffix == ".zip" and zipfile.is_zipfile(path) and _chats(_entries(path)):
            raise DataError(
                f"{top}: {export.relative_to(top)} and {name} are both exports, perhaps of the same chats;"
                " give the files to import one by one"
            )
        else:
            left_out[name] = _reason(name)
    return found


def _reason(name: str) -> str:
    """Why a file of this name is left out; a zip that an export contains was sent by its user."""
    suffix = PurePosixPath(name).suffix.lower()
    return COMPRESSED if suffix == ".gz" else BESIDE if suffix in (*SUFFIXES, ".zip") else OTHER


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [entry for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: a broken zip ({error}); download it again") from None


def _chats(entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    chats = [entry for entry in entries if EXPORT.fullmatch(PurePosixPath(entry.filename).name)]
    return sorted(chats, key=lambda entry: entry.filename)


def _zip(path: Path) -> tuple[list[Source], dict[str, str]]:
    """The conversations of a zip, and why its other files are left out."""
    entries = _entries(path)
    chats = _chats(entries)
    if not chats:
        names = ", ".join(printable(entry.filename) for entry in entries[:SHOWN])
        raise DataError(f"{path}: no conversations.json in this zip; it contains {names or 'nothing'}")
    taken = {entry.filename for entry in chats}
    others = {e.filename: _reason(e.filename) for e in entries if e.filename not in taken}
    several = len({PurePosixPath(entry.filename).parent for entry in chats}) > 1
    found = []
    for entry in chats:
        user, origin = path.stem, path.resolve()
        if several:  # a folder per user
            parent = PurePosixPath(entry.filename).parent
            user, origin = parent.name or user, origin / parent
        name = f"{path}: {printable(entry.filename)}"
        found.append(Source(name, user, origin, path, entry.filename, entry.file_size))
    return found, others
