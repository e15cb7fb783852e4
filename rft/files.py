"""Atomic file writes, and file locks held by one process.

Invariant: a reader of a file written here sees the old content or the new content, never a part. A failed
write leaves no temporary file.
"""

import contextlib
import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

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


def occupied(folder: Path) -> bool:
    """Whether something is there that a new folder would replace: anything but an empty folder."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def replace_folder(folder: Path, new: Path) -> None:
    """Renames a complete folder, `new`, to `folder`, and then removes what was there. In between, there is
    no `folder` for a moment."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def lock(path: Path, refused: RftError) -> FileLock:
    """Locks a file that exists only for this purpose; its folder is created if missing. The operating system
    releases the lock if the process crashes.

    Returns:
        The lock; it is held until `release()`, or until nothing refers to it.

    Raises:
        RftError: `refused`, if another process holds the lock.
        OSError: the file cannot be written.
    """
    file_lock = FileLock(path, timeout=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file_lock.acquire()
    except Timeout:
        raise refused from None
    return file_lock
