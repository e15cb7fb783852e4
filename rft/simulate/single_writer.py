"""One simulation at a time writes to an output: a second one is refused before it touches what the first has written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rft.errors import DataError
from rft.files import claim


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Holds `.NAME.lock` beside the output folder `out`; the system lets go of it however the process ends.

    Raises:
        DataError: another process simulates into `out`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    with path.open("w") as file:
        claim(file, DataError(f"{out}: another simulation writes to this folder; wait for it, or name another --out"))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
