"""One process at a time: a lock on an open file, which the system lets go of however its holder ends."""

import fcntl
from typing import IO, Any

from rft.errors import RftError


def claim(file: IO[Any], refused: RftError) -> None:
    """Locks `file` until it is closed. Raises `refused` if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise refused from None
