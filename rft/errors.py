"""What a user can mend.

Every error of this tree is the user's to mend: its message is one line that names the place (file, row or key), says what was
expected and what to do. The command line prints it without a traceback and exits with 2; anything else is a defect of ours.
"""

import errno

MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.ENOENT,
           errno.ENAMETOOLONG}
"""What a machine refuses and a user can mend: permissions, a read-only or full disk, a path that cannot be."""


class RftError(Exception):
    """A mistake in what the user gave us, told in one line."""


def told(error: Exception) -> str | None:
    """What to say to the user, in a line: of a mistake, and of what the machine refuses about a file that it names; None for any
    other error, which is a defect of ours."""
    if isinstance(error, RftError):
        return str(error)
    if isinstance(error, OSError) and error.errno in MACHINE and error.filename:
        return f"{error.filename}: {error.strerror}; name another folder, free space, or change its permissions"
    return None


class DataError(RftError, ValueError):
    """A dataset file, row or history that cannot be read as what it should be."""


class RecipeError(RftError, ValueError):
    """A recipe key or value, or a combination of them, that cannot be run."""


class CheckpointError(RftError, ValueError):
    """A model or checkpoint folder that cannot be loaded."""


class ModelError(RftError, ValueError):
    """A model or input that a method here cannot treat exactly."""


class ServerError(RftError, RuntimeError):
    """An endpoint that cannot be used as asked: it is gone, it refuses, or the budget for it is spent."""


class TrainingError(RftError, RuntimeError):
    """A training that cannot go on: numbers that are none, a reward that cannot score, a full disk."""


class Interrupted(Exception):
    """A training that was told to leave, and has left a checkpoint. Nobody's mistake."""
