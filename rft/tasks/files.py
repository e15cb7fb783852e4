"""Files of a dataset folder. Invariant: no file outside the folder is ever opened, whatever a link
contains."""

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from rft.errors import DataError


def history_path(root: Path, link: str, where: str, column: str) -> Path:
    """Returns the file of a link.

    Args:
        root: dataset folder.
        link: path relative to `root`.
        where: file and row of the link, for error messages.
        column: column of the link, for error messages.

    Raises:
        DataError: if the link points outside the dataset folder (also through a symlink), or to no file.
    """
    relative = PurePosixPath(link)
    path = root / relative
    if relative.is_absolute() or ".." in relative.parts or "\0" in link or not inside(path, root):
        raise DataError(
            f"{where}: {column} {link!r} points outside the dataset folder; "
            "links must be relative and stay inside it"
        )
    if not path.is_file():
        raise DataError(f"{where}: history file {link!r} is missing in {root}; download or simulate it again")
    return path


def digest(path: Path, histories: Iterable[str]) -> str:
    """Returns the sha256 over a file of questions and the ids of their histories."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256")
    for history in sorted(histories):
        found.update(history.encode("ascii"))
    return found.hexdigest()


def inside(path: Path, root: Path) -> bool:
    """Whether a file, with symlinks resolved, is inside the folder. In the Hub cache, the files of a snapshot
    are links into the `blobs` folder next to `snapshots`, which is allowed."""
    target, home = path.resolve(), root.resolve()
    if target.is_relative_to(home):
        return True
    return home.parent.name == "snapshots" and target.is_relative_to(home.parent.parent / "blobs")
