"""Lock on an output folder: a second simulation is refused before it changes any file of the first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rft.errors import DataError
from rft.files import lock


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Locks `.NAME.lock` beside the output folder `out`; the operating system releases the lock if the
    process crashes.

    Raises:
        DataError: another simulation writes to `out`.
    """
    path = out.with_name(f".{out.name}.lock")
    taken = f"{out}: another simulation writes to this folder; wait for it to finish, or use another --out"
    file_lock = lock(path, DataError(taken))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file_lock.release()
