"""Recipes: TRL-style YAML files of flat keys, each of which the command line can override.

An unknown key is an error that names the nearest field. Nothing in a recipe is ignored silently.
"""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from trl import TrlParser

from rft.errors import RecipeError
from rft.runs.account import check_account
from rft.shipped import recipe as find_recipe
from rft.tasks.personamem.dataset import PINNED_REVISION
from rft.train.help import FLAGS, show

NOT_FIELDS = ("config", "env")  # keys of TRL's parser that are not fields


@dataclass
class DataArguments:
    """Training questions and their context."""

    data: str = field(
        metadata={"help": "Dataset folder (docs/your_data.md, or PersonaMem's layout), or a Hub id."}
    )
    data_revision: str | None = field(
        default=None,
        metadata={"help": f"Commit of a Hub dataset; the official one defaults to {PINNED_REVISION[:8]}."},
    )
    window: str = field(
        default="32k", metadata={"help": "History size: 32k or 128k.", "choices": ["32k", "128k"]}
    )
    context: str = field(
        default="history",
        metadata={
            "help": "What the model sees about the person.",
            "choices": ["history", "history_no_persona", "none"],
        },
    )
    train_split: str = field(
        default="train",
        metadata={"help": "Split to train on: a CSV in benchmark/text, or a JSON lines file."},
    )
    exclude_personas: list[str] = field(
        default_factory=list,
        metadata={"help": "Personas to leave out of training, such as 78, which is also in the benchmark."},
    )
    max_prompt_tokens: int | None = field(
        default=None,
        metadata={"help": "Leave out questions with a longer prompt, in tokens; their number is logged."},
    )
    token_cache: str | None = field(
        default="~/.cache/rft/tokens",
        metadata={"help": "Folder that caches the token ids of histories between runs."},
    )


class _Parser(TrlParser):
    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}; --help lists every field with its meaning")


def parse(types: Sequence[Any], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Parses `--config RECIPE` (a file, or the name of a shipped recipe) and overrides such as `--seed 1`.

    Args:
        types: Dataclasses whose fields the recipe may set.
        argv: Command-line arguments; by default those of the process.

    Returns:
        One instance per dataclass of `types`.

    Raises:
        RecipeError: If there is no such recipe, it is not a YAML mapping, a key is unknown (the message has
            the nearest valid name), or a field or TRL's own checks reject a value.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if any(word in FLAGS for word in argv):
        print(show(types, everything=not {"-h", "--help"} & set(argv)))
        raise SystemExit(0)
    names = {f.name for cls in types for f in fields(cls) if f.init}
    if "--config" in argv:
        place = argv.index("--config") + 1
        if place == len(argv):
            raise RecipeError("--config needs a value: the path of a recipe")
        path = find_recipe(argv[place])
        _check_keys(path, names)
        argv[place] = str(path)
    for word in argv:
        if word.startswith("--"):
            key = word[2:].split("=")[0].replace("-", "_")
            if key.removeprefix("no_") not in names and key not in (*NOT_FIELDS, *names):
                raise RecipeError(f"--{key}: no such field{_nearest(key, names)}")
    if (
        "use_cpu" in names
        and not torch.accelerator.is_available()
        and not any(w.startswith("--use_cpu") for w in argv)
    ):
        argv += ["--use_cpu", "true"]  # without it, transformers rejects bf16 here
    try:
        parsed = _Parser(list(types), allow_abbrev=False).parse_args_and_config(argv)
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
