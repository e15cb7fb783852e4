"""Lock on an output folder: a second simulation is refused before it changes any file of the first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rft.errors import DataError
from rft.files import claim


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Locks `.NAME.lock` beside the output folder `out`; the operating system releases the lock if the
    process crashes.

    Raises:
        DataError: another simulation writes to `out`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    with path.open("w") as file:
        claim(
            file,
            DataError(
                f"{out}: another simulation writes to this folder; wait for it to finish, or use another"
                " --out"
            ),
        )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
