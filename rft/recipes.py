"""`rft recipes`: lists the recipes that come with rft, prints one, or copies one to be edited.

A recipe's first line is a comment that says what it trains and on what hardware; the list shows this line.
"""

import argparse
import shutil
from pathlib import Path

from rft.errors import RecipeError
from rft.shipped import LAUNCH, RECIPES, recipes, shipped_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `rft recipes`."""
    actions = parser.add_subparsers(dest="action", metavar="show|copy", help="(default: list all recipes)")
    show = actions.add_parser("show", help="print a recipe")
    copy = actions.add_parser("copy", help="copy a recipe into a folder, to be edited")
    for action in (show, copy):
        action.add_argument("name", help="name of a recipe, for example quickstart/grpo.yaml")
    copy.add_argument("folder", type=Path, help="folder to copy it to; created if missing")


def run(args: argparse.Namespace) -> int:
    """Runs `rft recipes`; returns the exit code."""
    if args.action == "show":
        print(shipped_recipe(args.name).read_text(encoding="utf-8"), end="")
    elif args.action == "copy":
        print(_copy(shipped_recipe(args.name), args.folder))
    else:
        width = max(map(len, recipes()), default=0)
        for name, path in recipes().items():
            print(f"{name:<{width}}  {purpose(path)}")
        print(
            "\nto train from one: rft grpo --config quickstart/grpo.yaml; rft sft, memory-sft, ... likewise"
        )
        print(f"recipes: {RECIPES}; layouts (--launch) and Slurm scripts: {LAUNCH}")
    return 0


def purpose(path: Path) -> str:
    """Returns what a recipe trains and on what hardware: its first line."""
    with open(path, encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def _copy(path: Path, folder: Path) -> Path:
    to = folder / path.name
    if to.exists():
        raise RecipeError(f"{to}: exists; name another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)
    return to
