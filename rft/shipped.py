"""The files that come with rft: recipes, the quickstart's base checkpoint, layouts and Slurm scripts.

Invariant: a name finds the same file in a checkout, in which the folders `recipes/` and `launch/` stand next
to the package, and in an installed wheel, which contains them in `rft/share/`. A local file or folder of that
name is used instead of the shipped one.
"""

import difflib
import logging
from functools import cache
from pathlib import Path, PurePosixPath

from rft.errors import RecipeError

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent
FILES = share if (share := _PACKAGE / "share").is_dir() else _PACKAGE.parent
"""The folder that contains `recipes/` and `launch/`."""
RECIPES, LAUNCH = FILES / "recipes", FILES / "launch"


def recipes() -> dict[str, Path]:
    """Returns every shipped recipe, by its name such as `quickstart/grpo.yaml`."""
    paths = sorted(RECIPES.glob("*/*.yaml"))
    return {path.relative_to(RECIPES).as_posix(): path for path in paths}


def locate(name: str) -> Path:
    """Returns the path of a local or shipped file or folder; logs which of them if the name does not tell.

    Args:
        name: a local path, or the name of something shipped: `recipes/quickstart/base`. A recipe's name may
            leave out `recipes/`: `quickstart/grpo.yaml`. (A checkpoint's may not: `quickstart/base` could be
            a Hub id.)

    Returns:
        The path as it was given if nothing of that name exists.
    """
    local, shipped = Path(name).expanduser(), _shipped(name)
    if shipped is None or (local.exists() and local.samefile(shipped)):
        return local
    if local.exists():
        _say(f"{name}: the local one is used, not the one of this name that comes with rft")
        return local
    _say(f"{name}: comes with rft ({shipped})")
    return shipped


def recipe(name: str) -> Path:
    """Returns the path of a local or shipped recipe.

    Raises:
        RecipeError: there is none; the message has the nearest names.
    """
    if (path := locate(name)).exists():
        return path
    raise RecipeError(f"{name}: no such file, and no such recipe comes with rft; {_nearest(name)}")


def shipped_recipe(name: str) -> Path:
    """Returns the path of a shipped recipe, whatever local files there are.

    Raises:
        RecipeError: there is none; the message has the nearest names.
    """
    path = _shipped(name)
    if path is None or not path.is_file():
        raise RecipeError(f"{name}: no such recipe comes with rft; {_nearest(name)}")
    return path


def _shipped(name: str) -> Path | None:
    place = PurePosixPath(name)
    if name.startswith((".", "/", "~")) or ".." in place.parts:
        return None
    if place.parts[:1] != ("recipes",):
        place = "recipes" / place
        if place.suffix != ".yaml":
            return None
    path = FILES / place
    return path if path.exists() else None


def _nearest(name: str) -> str:
    names = list(recipes())
    near = difflib.get_close_matches(name.removeprefix("recipes/"), names, n=3)
    same_file = [known for known in names if PurePosixPath(known).name == PurePosixPath(name).name]
    proposed = list(dict.fromkeys([*near, *same_file]))[:3]
    return f"did you mean {' or '.join(proposed)}?" if proposed else "`rft recipes` lists them"


@cache  # a name is looked up several times in a run
def _say(line: str) -> None:
    logger.info(line)
