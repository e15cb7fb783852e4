"""Errors the user can fix.

Every error of this hierarchy has a one-line message that names the place (file, row or key), what was
expected and how to fix it. The command line prints the message without a traceback and exits with 2. Any
other exception is a bug in rft.
"""

import errno

MACHINE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENAMETOOLONG,
}
"""Operating system errors the user can fix: permissions, a read-only or full disk, an invalid path."""


class RftError(Exception):
    """Base class: a user error with a one-line message."""


def told(error: Exception) -> str | None:
    """Returns the one-line message for the user: of an RftError, or of an operating system error about a
    named file; None for any other error, which is a bug in rft.
    """
    if isinstance(error, RftError):
        return str(error)
    if isinstance(error, OSError) and error.errno in MACHINE and error.filename:
        return (
            f"{error.filename}: {error.strerror}; choose another folder, free space, or change its"
            " permissions"
        )
    return None


class DataError(RftError, ValueError):
    """A dataset file, row or history is invalid."""


class RecipeError(RftError, ValueError):
    """A recipe key or value is invalid, or a combination of them."""


class CheckpointError(RftError, ValueError):
    """A model or checkpoint folder cannot be loaded."""


class ModelError(RftError, ValueError):
    """A model or input is not supported exactly by a method of rft."""


class ServerError(RftError, RuntimeError):
    """An endpoint cannot be used: it is unreachable, it refuses the request, or its budget is spent."""


class TrainingError(RftError, RuntimeError):
    """Training cannot continue: NaN or infinite values, a reward that cannot score, a full disk."""


class Interrupted(Exception):
    """Training was interrupted by a signal and has saved a checkpoint. This is not an error."""
