"""Finding the kind of a dataset: its splits by its files, its `Task` by its name.

Invariant: a folder with `benchmark/text` and a Hub id are PersonaMem; a folder with `NAME.jsonl` is one of
JSON lines (`rft.tasks.jsonl`).
"""

import warnings
from collections.abc import Collection
from functools import cache
from importlib import import_module
from pathlib import Path

from rft.errors import DataError
from rft.tasks import jsonl
from rft.tasks.base import Split, Task
from rft.tasks.personamem import dataset as personamem

TASKS = {"personamem": "rft.tasks.personamem.task", "jsonl": "rft.tasks.jsonl"}
"""{name: the module with its `TASK`}."""


@cache
def task_named(name: str) -> Task:
    """Returns the task with this name. Raises DataError if there is none."""
    if name not in TASKS:
        raise DataError(f"unknown task {name!r}; expected one of {', '.join(TASKS)}")
    return import_module(TASKS[name]).TASK


def load_split(
    source: str | Path,
    split: str,
    window: str = "32k",
    *,
    revision: str | None = None,
    exclude_personas: Collection[str] = (),
) -> Split:
    """Reads a split: its questions, and each of their histories once.

    Args:
        source: dataset folder or Hub id.
        split: name of the split: of its CSV or JSON lines file, without extension.
        window: "32k" or "128k", the histories to read, if the dataset has several sizes.
        revision: revision of a Hub dataset.
        exclude_personas: people whose rows are skipped.

    Raises:
        DataError: if the data is invalid; the message names the file, row or key, what was expected and how
            to fix it.
    """
    if not jsonl.is_jsonl(source):
        return personamem.load_split(source, split, window, revision, exclude_personas)
    if revision is not None:
        warnings.warn(f"revision {revision} is ignored: {source} is a folder", stacklevel=2)
    if window != personamem.WINDOWS[0]:
        warnings.warn(f"window {window} is ignored: {source} has histories of one size", stacklevel=2)
    return jsonl.load_split(Path(source).expanduser(), split, exclude_personas)


def locate(source: str | Path, revision: str | None = None, *, window: str | None = None) -> Path:
    """Returns the dataset folder, downloaded if `source` is a Hub id. Raises DataError if there is none."""
    if jsonl.is_jsonl(source):
        return Path(source).expanduser()
    return personamem.locate(source, revision, window=window)


def split_names(root: Path) -> list[str]:
    """Returns the split names of a dataset folder, train, val and benchmark first. Raises DataError if there
    are none."""
    return jsonl.split_names(root) if jsonl.is_jsonl(root) else personamem.split_names(root)
