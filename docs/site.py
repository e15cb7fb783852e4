"""The pages that the site has but `docs/` does not: files from elsewhere in the repository, and references
made from the code. mkdocs runs this file as a hook (mkdocs.yml).

Invariant: links are written so that they work in a checkout; the site's own paths are found here. A page of
`GENERATED` says what the code says, because it is made from the code at every build.
"""

import importlib
import io
import json
import os
import posixpath
import re
import sys
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # document this checkout, whatever is installed
rft = importlib.import_module("rft")

INCLUDED = {  # page of the site -> file of the repository
    "index.md": "README.md",
    "guides/launch.md": "launch/README.md",
    "guides/docker.md": "docker/README.md",
    "guides/examples.md": "examples/README.md",
    "results/quickstart.md": "recipes/quickstart/README.md",
    "results/middle.md": "recipes/middle/README.md",
    "results/smollm2.md": "recipes/smollm2/README.md",
    "results/personamem_v2.md": "recipes/personamem_v2/README.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/security.md": "SECURITY.md",
    "project/changelog.md": "CHANGELOG.md",
}
FILES = (
    "recipes/quickstart/report.png",
    "recipes/personamem_v2/step_time.svg",
    "recipes/personamem_v2/gpu_h200.json",
    "recipes/personamem_v2/gpu_h200_2.json",
    "recipes/smollm2/curves.svg",
    "examples/evaluate_model.py",
    "examples/brief.py",
    "examples/chats_to_memory.py",
    "examples/chats.jsonl",
    "examples/grpo.ipynb",
    "examples/trl_prefix_tree.py",
)
FOLDERS = {"docs/schema": "reference/file_formats.md"}  # a link to a folder leads to this page
API = {  # page -> its title, and its modules or names
    "reference/api/rft.md": ("The package", [f"rft.{name}" for name in rft.__all__ if name[0] != "_"]),
    "reference/api/reward.md": ("Rewards", ["reward"]),
    "reference/api/prefix_tree.md": ("Prefix tree", ["rft.prefix_tree"]),
    "reference/api/tasks.md": (
        "Tasks",
        ["rft.tasks.base", "rft.tasks.load", "rft.data.history", "rft.data.question"],
    ),
    "reference/api/models.md": ("Models", ["rft.models.local", "rft.models.endpoint", "rft.models.vllm"]),
    "reference/api/memory.md": ("Memory", ["rft.memory"]),
    "reference/api/evaluate.md": ("Evaluation", ["rft.evaluate"]),
    "reference/api/loop.md": (
        "Training loop",
        [
            "rft.train.loop",
            "rft.train.arm",
            "rft.train.rollout",
            "rft.train.advantages",
            "rft.train.micro_batch",
        ],
    ),
    "reference/api/errors.md": ("Errors", ["rft.errors"]),
}
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def command_line() -> str:
    """The page of all commands: what each prints for `--help`."""
    from rft.cli import COMMANDS, TRAINING

    parts = [
        "# Command line",
        "Generated from the commands themselves: this is what `--help` prints.",
        "Exit codes: 0 success; 1 a check failed; 2 user error, one line on stderr; 75 training interrupted"
        " by a signal after saving a checkpoint; 76 a process made no progress for `stall_minutes`;"
        " 130 Ctrl-C.",
    ]
    for name, what in COMMANDS.items():
        for command, parser in parsers(name, *what):
            parts += [f"## rft {command}", f"```text\n{parser.format_help().rstrip()}\n```"]
    for name, (module, what) in TRAINING.items():
        parts += [
            f"## rft {name}",
            f"{what[0].upper()}{what[1:]}. {FIELDS}",
            f"```text\n{training_help(module)}\n```",
        ]
    return "\n\n".join(parts) + "\n"


FIELDS = "Every field can be set in a recipe too: see [recipe fields](recipe_fields.md)."


def parsers(name: str, module: str, what: str) -> Iterator[tuple[str, ArgumentParser]]:
    """Yields a command and its subcommands with their parsers, as `rft.cli` makes them."""
    os.environ["COLUMNS"] = "100"  # argparse wraps at this width
    parser = ArgumentParser(prog=f"rft {name}", description=what)
    importlib.import_module(module).add_arguments(parser)
    yield name, parser
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for choice, below in action.choices.items():
                yield f"{name} {choice}", below


def training_help(module: str) -> str:
    """What a training command prints for `--help`."""
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        importlib.import_module(module).train(["--help"])
    return said.getvalue().rstrip()


def training_types(module: str) -> tuple[type, ...]:
    """The dataclasses that hold the fields of a training command."""
    found: list[tuple[type, ...]] = []
    with patch("rft.train.recipe.show", lambda types, everything: found.append(tuple(types))):
        training_help(module)
    return found[0]


def recipe_fields() -> str:
    """The page of all fields of rft, and of TRL's that most recipes set, with their defaults."""
    from rft.cli import TRAINING
    from rft.train.help import COMMON

    types = {name: training_types(module) for name, (module, _) in TRAINING.items()}
    owners: dict[type, dict[str, list[str]]] = {}  # class -> field -> commands
    for name, classes in types.items():
        for cls in dict.fromkeys(base for kind in classes for base in kind.__mro__):
            if cls.__module__.startswith("rft."):
                for key in cls.__dict__.get("__annotations__", {}):
                    owners.setdefault(cls, {}).setdefault(key, []).append(name)
    known = {name: {f.name: f for cls in of for f in fields(cls) if f.init} for name, of in types.items()}
    parts = [
        "# Recipe fields",
        "Generated from the dataclasses. A field is set in a recipe (`learning_rate: 1.0e-6`) or on the"
        " command line (`--learning_rate 1e-6`). A field that is unknown is rejected with the nearest name."
        " All other fields of TRL, transformers and PEFT work too: `rft grpo --help-all` lists them.",
    ]
    for cls, keys in owners.items():
        rows = [_row(key, known, names) for key, names in keys.items() if key in known[names[0]]]
        if rows:
            commands = dict.fromkeys(name for names in keys.values() for name in names)
            title = " ".join((cls.__doc__ or cls.__name__).split("\n\n")[0].split())
            parts += [
                f"## {cls.__name__}",
                f"{title} Commands: {', '.join(f'`rft {n}`' for n in commands)}.",
                _table(rows),
            ]
    rows = [
        _row(key, known, [n for n in known if key in known[n]])
        for key in COMMON
        if any(key in of for of in known.values())
    ]
    parts += ["## Fields of TRL and transformers", "Those that most recipes set.", _table(rows)]
    return "\n\n".join(parts) + "\n"


def _row(key: str, known: dict[str, dict[str, Any]], names: list[str]) -> str:
    from rft.train.help import COMMON, _default

    defaults: dict[str, list[str]] = {}
    for name in names:
        defaults.setdefault(_default(known[name][key]), []).append(name)
    said = COMMON.get(key) or " ".join(str(known[names[0]][key].metadata.get("help", "")).split())
    shown = "; ".join(
        (f"`{value}`" if value else "not set") + (f" ({', '.join(of)})" if len(defaults) > 1 else "")
        for value, of in defaults.items()
    )
    return f"| `{key}` | {shown} | {_cell(said)} |"


def _table(rows: list[str], first: str = "field", second: str = "default") -> str:
    return "\n".join([f"| {first} | {second} | meaning |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def file_formats() -> str:
    """The page of the files that rft writes: their keys, from the JSON schemas."""
    files = {
        "results": "`results.jsonl`: one line per answer of an evaluation",
        "summary": "`summary.json` of an evaluation",
        "run": "`run.json`: the identity of an evaluation, which a resumed run must have too",
        "comparison": "`comparison.json` of `rft compare`",
        "metrics": "`metrics.jsonl` of a training: one line per log",
        "provenance": "`provenance.json` of a training",
    }
    parts = [
        "# File formats",
        "Made from the JSON schemas in `docs/schema`, which are made from the models in `rft/records`. A file"
        " has a `version`; a file of a newer version is refused by name. Datasets: [your own"
        " data](../your_data.md), and the official PersonaMem-v2 layout.",
    ]
    for name, what in files.items():
        path = REPOSITORY / f"docs/schema/{name}.schema.json"
        schema = json.loads(path.read_text(encoding="utf-8"))
        told = _attributes(schema.get("description", ""))
        rows = [
            f"| `{key}` | {_cell(_type(of))} | {_cell(told.get(key, ''))} |"
            for key, of in schema.get("properties", {}).items()
        ]
        table = _table(rows, "key", "type") if rows else ""
        parts += [f"## {name}", f"{what}. [JSON schema](../schema/{name}.schema.json)", table]
    return "\n\n".join(parts) + "\n"


def _attributes(description: str) -> dict[str, str]:
    """The meanings in the section `Attributes:` of a docstring."""
    section = description.partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {key.strip(): " ".join(said.split()) for keys, said in entries for key in keys.split(",")}


def _type(of: dict[str, Any]) -> str:
    if "anyOf" in of:
        return " or ".join(dict.fromkeys(_type(one) for one in of["anyOf"]))
    if "$ref" in of:
        return of["$ref"].rpartition("/")[2]
    if of.get("type") == "array":
        return f"list of {_type(of.get('items', {}))}"
    if "const" in of:
        return json.dumps(of["const"])
    return " or ".join(map(json.dumps, of["enum"])) if "enum" in of else str(of.get("type", "any"))


def api(title: str, modules: list[str]) -> str:
    """A page of the Python reference, which mkdocstrings fills in."""
    return "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)]) + "\n"


GENERATED: dict[str, Callable[[], str]] = {
    "reference/command_line.md": command_line,
    "reference/recipe_fields.md": recipe_fields,
    "reference/file_formats.md": file_formats,
    **{page: lambda what=what: api(*what) for page, what in API.items()},  # type: ignore[misc]
}


def relinked(markdown: str, source: str, page: str) -> str:
    """Returns a text with its links turned from files of the repository into pages of the site. A link to
    what the site does not have stays as it is, and mkdocs warns of it.

    Args:
        markdown: the text.
        source: the file that it is from, relative to the repository.
        page: the page that it becomes, relative to the site.
    """
    pages = {file: page for page, file in INCLUDED.items()} | FOLDERS
    pages |= {file: f"files/{file}" for file in FILES}

    def link(found: re.Match[str]) -> str:
        to = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        to = to if (REPOSITORY / to).suffix else pages.get(f"{to}/README.md") and f"{to}/README.md" or to
        target = pages.get(to) or (to.removeprefix("docs/") if to.startswith("docs/") else None)
        if target is None:
            return f"{found[1]}{found[2] or ''}"  # mkdocs warns, and --strict makes it an error
        return posixpath.relpath(target, posixpath.dirname(page) or ".") + (found[2] or "")

    return LINK.sub(link, markdown)


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: adds the pages and files that `docs/` does not have."""
    from mkdocs.structure.files import File

    for page, source in INCLUDED.items():
        files.append(File.generated(config, page, content=(REPOSITORY / source).read_text(encoding="utf-8")))
    for page, made in GENERATED.items():
        files.append(File.generated(config, page, content=made()))
    for file in FILES:
        files.append(File.generated(config, f"files/{file}", abs_src_path=str(REPOSITORY / file)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """mkdocs: turns links between files of the repository into links between pages."""
    uri = page.file.src_uri
    return markdown if uri in GENERATED else relinked(markdown, INCLUDED.get(uri, f"docs/{uri}"), uri)
