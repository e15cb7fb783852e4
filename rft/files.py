"""Atomic file writes, and file locks held by one process.

Invariant: a reader of a path written here sees the old content or the new content, never a part. A failed
write leaves no temporary file.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO, Any

from rft.errors import DataError, RftError


def write_atomic(path: Path, content: bytes, durable: bool = False) -> None:
    """Writes a file atomically. Several processes may write the same path: the last one wins.

    Args:
        path: file to write; its folder is created if missing.
        content: full content of the file.
        durable: whether the content must survive a power failure after the call; costs an fsync.

    Raises:
        OSError: if the file cannot be written.
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
    """Writes text with `write_atomic`. Raises DataError if the file cannot be written."""
    try:
        write_atomic(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot write it: {error.strerror or error}; free space, then run the same command again"
        ) from None


def claim(file: IO[Any], refused: RftError) -> None:
    """Locks an open file until it is closed. The operating system also releases the lock if the process
    crashes.

    Raises:
        RftError: `refused`, if another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise refused from None
