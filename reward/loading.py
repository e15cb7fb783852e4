"""Loading the reward function that a recipe names.

Invariant: a name is a plain Python import and nothing else. It resolves to a callable, or raises a ValueError
that says what is missing, or which line of the module failed.
"""

import importlib
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def load(spec: str) -> Callable[..., list[float | None]]:
    """Loads the reward function that `spec` names: "package.module.function" or "path/to/file.py:function".

    A path is relative to the current folder. The module is executed.

    Raises:
        ValueError: there is no such module, file or function, it is not callable, or the module failed.
    """
    where, separator, name = spec.rpartition(":" if ".py:" in spec else ".")
    is_file = separator == ":"
    if not separator or not (is_file or all(part.isidentifier() for part in where.split("."))):
        raise ValueError(f'reward "{spec}": expected "package.module.function" or "path/to/file.py:function"')
    try:
        module = _file(Path(where)) if is_file else _module(where)
    except _NotFound as error:
        raise ValueError(f'reward "{spec}": {error}') from error.__cause__
    except SyntaxError as error:
        raise ValueError(f'reward "{spec}": {error.filename}, line {error.lineno}: {error.msg}') from error
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f'reward "{spec}": {place.filename}, line {place.lineno}: {reason}') from error
    reward = getattr(module, name, None)
    if not callable(reward):
        what = "is not a function" if hasattr(module, name) else "does not exist"
        raise ValueError(f'reward "{spec}": {name} {what} in {where}; name a function that is defined there')
    return reward


class _NotFound(Exception):
    """There is no such module or file; the message says what to do."""


def _module(where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        mend = "install it, or name a file as path/to/file.py:function"
        raise _NotFound(f"no module named {error.name}; {mend}") from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise _NotFound(f"no file {path.absolute()}; give its path relative to the current folder")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None and module_spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module
