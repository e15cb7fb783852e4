"""Lock on an output folder: a second writer is refused before it changes any file of the first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rft.errors import DataError
from rft.files import lock


@contextmanager
def only_writer(out: Path, what: str) -> Iterator[None]:
    """Locks `.NAME.lock` beside the output folder `out`; the operating system releases the lock if the
    process crashes.

    Args:
        out: the output folder.
        what: what writes to it, such as "simulation", for the message.

    Raises:
        DataError: another process writes to `out`.
    """
    path = out.with_name(f".{out.name}.lock")
    taken = f"{out}: another {what} writes to this folder; wait for it to finish, or use another --out"
    file_lock = lock(path, DataError(taken))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file_lock.release()
