"""One simulation at a time writes to an output: a second one is refused before it touches what the first has written."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rft.errors import DataError


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Holds `.NAME.lock` beside the output folder `out`; the system lets go of it however the process ends.

    Raises:
        DataError: another process simulates into `out`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{out}: another simulation writes to this folder; wait for it, or name another --out") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
