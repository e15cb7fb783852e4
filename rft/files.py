"""Files that are written whole or not at all, and locks that one process holds.

Invariant: whoever reads a path written here finds the old content or the new one, never a part; a write that fails leaves
nothing beside it.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO, Any

from rft.errors import DataError, RftError


def write_atomic(path: Path, content: bytes, durable: bool = False) -> None:
    """Writes a file whole or leaves what was there. Several processes may write the same path: the last one wins.

    Args:
        path: its folder is made if it is missing.
        content: all that the file will hold.
        durable: whether the content must survive a power cut from now on, for the time of an fsync.

    Raises:
        OSError: the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """`write_atomic` for text. Raises DataError if the disk refuses."""
    try:
        write_atomic(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot write it: {error.strerror or error}; make room, then run the same command again"
        ) from None


def claim(file: IO[Any], refused: RftError) -> None:
    """Locks an open file until it is closed; the system lets go of it however its holder ends. Raises `refused` if another
    process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise refused from None
