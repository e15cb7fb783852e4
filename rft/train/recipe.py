"""Recipes: TRL-style YAML files of flat keys, each of which the command line can override.

An unknown key is an error that names the nearest field. Nothing in a recipe is ignored silently.
"""

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from trl import TrlParser

from rft.data.prompt import CONTEXTS
from rft.errors import RecipeError
from rft.runs.account import check_account
from rft.shipped import recipe as find_recipe
from rft.tasks.personamem.dataset import PINNED_REVISION
from rft.train.help import FLAGS, recipe_field, show

NOT_FIELDS = ("config", "env")  # keys of TRL's parser that are not fields
Given = Sequence[str] | Mapping[str, Any] | None
"""What a training is given: words of a command line, or fields by name; None: the words of this process."""


@dataclass
class DataArguments:
    """Training questions and their context."""

    data: str = field(
        metadata={"help": "Dataset folder (docs/your_data.md, or PersonaMem's layout), or a Hub id."}
    )
    data_revision: str | None = recipe_field(
        None, f"Commit of a Hub dataset; the official one defaults to {PINNED_REVISION[:8]}."
    )
    window: str = recipe_field("32k", "History size: 32k or 128k.", ["32k", "128k"])
    context: str = recipe_field("history", "What the model sees about the person.", CONTEXTS)
    train_split: str = recipe_field(
        "train", "Split to train on: a CSV in benchmark/text, or a JSON lines file."
    )
    exclude_personas: list[str] = recipe_field(
        [], "Personas to leave out of training, such as 78, which is also in the benchmark."
    )
    max_prompt_tokens: int | None = recipe_field(
        None, "Leave out questions with a longer prompt, in tokens; their number is logged."
    )
    token_cache: str | None = recipe_field(
        "~/.cache/rft/tokens", "Folder that caches the token ids of histories between runs."
    )


class _Parser(TrlParser):
    """TRL's parser of a recipe and words, with fields in between: they override the recipe."""

    fields: Mapping[str, Any] = {}

    def parse_args_into_dataclasses(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        self.set_defaults_with_config(**self.fields)
        return super().parse_args_into_dataclasses(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}; --help lists every field with its meaning")


def parse(types: Sequence[Any], argv: Given = None) -> tuple[Any, ...]:
    """Parses `--config RECIPE` (a file, or the name of a shipped recipe) and overrides such as `--seed 1`.

    Args:
        types: Dataclasses whose fields the recipe may set.
        argv: Command-line arguments, by default those of the process; or fields by name, of which "config" is
            a recipe that the others override.

    Returns:
        One instance per dataclass of `types`.

    Raises:
        RecipeError: If there is no such recipe, it is not a YAML mapping, a key is unknown (the message has
            the nearest valid name), or a field or TRL's own checks reject a value.
    """
    given: dict[str, Any] = {}
    if isinstance(argv, Mapping):
        given = {key: str(value) if isinstance(value, Path) else value for key, value in argv.items()}
        argv = ["--config", str(given.pop("config"))] if "config" in given else []
    argv = list(sys.argv[1:] if argv is None else argv)
    if any(word in FLAGS for word in argv):
        print(show(types, everything=not {"-h", "--help"} & set(argv)))
        raise SystemExit(0)
    names = {f.name for cls in types for f in fields(cls) if f.init}
    joined = next((word for word in argv if word.startswith("--config=")), None)
    if joined is not None:  # TRL's parser knows the separate form only
        place = argv.index(joined)
        argv[place : place + 1] = ["--config", *filter(None, [joined.removeprefix("--config=")])]
    if "--config" in argv:
        place = argv.index("--config") + 1
        if place == len(argv):
            raise RecipeError("--config needs a value: the path of a recipe")
        path = find_recipe(argv[place])
        _check_keys(path, names)
        argv[place] = str(path)
    for key in given:
        if key not in names:
            raise RecipeError(f"no such field {key!r}{_nearest(str(key), names)}")
    for word in argv:
        if word.startswith("--"):
            key = word[2:].split("=")[0].replace("-", "_")
            if key.removeprefix("no_") not in names and key not in (*NOT_FIELDS, *names):
                raise RecipeError(f"--{key}: no such field{_nearest(key, names)}")
    if (
        "use_cpu" in names
        and not torch.accelerator.is_available()
        and not any(w.startswith("--use_cpu") for w in argv)
        and "use_cpu" not in given
    ):
        argv += ["--use_cpu", "true"]  # without it, transformers rejects bf16 here
    parser = _Parser(list(types), allow_abbrev=False)
    parser.fields = given
    try:
        parsed = parser.parse_args_and_config(argv)
    except RecipeError:
        raise
    except (ValueError, TypeError) as error:  # a dataclass rejects its values
        raise RecipeError(" ".join(str(error).split())) from error
    if any(getattr(part, "model_name_or_path", "") is None for part in parsed):
        raise RecipeError("model_name_or_path: missing; set it to a checkpoint folder or a Hub id")
    if any(
        "wandb" in getattr(part, "report_to", ()) and not getattr(part, "dry_run", False) for part in parsed
    ):
        check_account()
    return parsed


class UniqueKeys(yaml.SafeLoader):
    """PyYAML's safe loader, except that a duplicate key is an error; YAML silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds a mapping and rejects duplicate keys."""
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise yaml.YAMLError(
                    f"{key.value!r} is in line {seen[key.value]} and again in line {line}; keep one"
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep)


def _check_keys(path: Path, names: set[str]) -> None:
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except OSError as error:
        raise RecipeError(f"{path}: cannot read this recipe: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict):
        raise RecipeError(f"{path}: expected a mapping of field: value")
    for key in recipe:
        if key not in names and key not in NOT_FIELDS:
            raise RecipeError(f"{path}: no such field {key!r}{_nearest(str(key), names)}")


def _nearest(key: str, names: set[str]) -> str:
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else "; --help lists the fields"
