"""The documentation says what is there: its pages, its links, its command lines and the recipes they name.

The Python reference and the links of generated pages are checked by mkdocs itself (`make docs`, --strict).
"""

import argparse
import importlib
import importlib.util
import posixpath
import re
import shlex
from dataclasses import fields
from pathlib import PurePosixPath

import pytest
import yaml

from rft.cli import COMMANDS, TRAINING
from rft.launch import OF_LAUNCHER, layouts
from rft.shipped import recipes

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "bash")
BLOCKS_OF = (
    "README.md",
    "launch/README.md",
    "docker/README.md",
    "CONTRIBUTING.md",
    "recipes/*/README.md",
    "docs/**/*.md",
)


@pytest.fixture(scope="module")
def site(repository):
    spec = importlib.util.spec_from_file_location("docs_site", repository / "docs/site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def authored(repository):
    return {
        path.relative_to(repository / "docs").as_posix(): path for path in (repository / "docs").rglob("*.md")
    }


def nav_of(repository):
    def leaves(node):
        below = node.values() if isinstance(node, dict) else node
        return [node] if isinstance(node, str) else [page for part in below for page in leaves(part)]

    return leaves(yaml.safe_load((repository / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def test_the_nav_has_every_page_once_and_nothing_else(repository, site, authored):
    pages = [*authored, *site.INCLUDED, *site.GENERATED]
    assert sorted(nav_of(repository)) == sorted(pages)
    missing = [source for source in site.INCLUDED.values() if not (repository / source).is_file()]
    assert not missing


def test_relative_links_lead_to_files_or_generated_pages(repository, site, authored):
    sources = [*authored.values(), *(repository / source for source in site.INCLUDED.values())]
    generated = {(repository / "docs" / page) for page in site.GENERATED}
    broken = [
        f"{path.relative_to(repository)}: {found[1]}"
        for path in sources
        for found in site.LINK.finditer(
            re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.S)
        )
        if not (to := (path.parent / found[1]).resolve()).exists() and to not in generated
    ]
    assert not broken


def test_links_of_included_files_lead_to_what_the_site_has(repository, site, authored):
    there = {*authored, *site.INCLUDED, *site.GENERATED, *(f"files/{file}" for file in site.FILES)}
    there |= {path.relative_to(repository / "docs").as_posix() for path in (repository / "docs").rglob("*.*")}
    lost = [
        f"{source}: {found[1]}"
        for page, source in site.INCLUDED.items()
        for found in site.LINK.finditer(
            site.relinked((repository / source).read_text(encoding="utf-8"), source, page)
        )
        if posixpath.normpath(posixpath.join(posixpath.dirname(page), found[1])) not in there
    ]
    assert not lost


def test_links_of_included_files_become_links_between_pages(site):
    assert (
        site.relinked("[l](launch/README.md#precision)", "README.md", "index.md")
        == "[l](guides/launch.md#precision)"
    )
    assert (
        site.relinked("[m](../docs/metrics.md)", "launch/README.md", "guides/launch.md")
        == "[m](../metrics.md)"
    )
    assert site.relinked("[s](docs/schema)", "README.md", "index.md") == "[s](reference/file_formats.md)"
    assert site.relinked("[h](https://a.b/c)", "README.md", "index.md") == "[h](https://a.b/c)"


def command_lines(repository):
    """(file, words) of every `rft ...` line in fenced shell blocks."""
    for pattern in BLOCKS_OF:
        for path in sorted(repository.glob(pattern)):
            for language, block in FENCE.findall(path.read_text(encoding="utf-8")):
                for line in block.replace("\\\n", " ").splitlines() if language in SHELL else ():
                    words = shlex.split(line, comments=True) if line.strip().startswith("rft ") else []
                    if words:
                        yield path.relative_to(repository).as_posix(), words[1:]


OUTPUT = re.compile(
    r'(?:--out|--output_dir|\boutput_dir:|"output_dir":) +"?([\w./-]+)|evaluate_model\(.*split, "([\w./-]+)'
)


def outputs(repository):
    """(file, command or line, output folder) of every command, recipe and Python line in fenced blocks."""
    for pattern in BLOCKS_OF:
        for path in sorted(repository.glob(pattern)):
            for _, block in FENCE.findall(path.read_text(encoding="utf-8")):
                for line in block.replace("\\\n", " ").splitlines():
                    command = " ".join(line.partition(" #")[0].split())
                    command = re.sub(r"^docker run .* rft ", "rft ", command)
                    for found in OUTPUT.finditer(command):
                        yield path.relative_to(repository).as_posix(), command, found[1] or found[2]


def test_two_pages_share_an_output_folder_only_for_the_same_command(repository):
    """A command is refused if its folder holds the output of another one."""
    users = {}
    for file, command, folder in outputs(repository):
        users.setdefault(folder, {}).setdefault(file, set()).add(command)
    assert len(users) > 40 and {"out/mine_sft", "out/python_sft", "out/python_evaluation"} <= users.keys()
    shared = {folder: pages for folder, pages in users.items() if len(pages) > 1}
    clashes = {folder: pages for folder, pages in shared.items() if not set.intersection(*pages.values())}
    assert not clashes


def test_command_lines_of_the_docs_parse(repository, site):
    found = list(command_lines(repository))
    assert len(found) > 50
    known = {}  # field names of the training commands
    faults = []
    for file, words in found:
        try:
            check(words, site, known)
        except (ValueError, argparse.ArgumentError) as error:
            faults.append(f"{file}: rft {' '.join(words)}: {error}")
    assert not faults, "\n".join(faults)


def check(words, site, known):
    """Raises ValueError if a command would not accept these words."""
    if words[0].startswith("-"):
        if words not in (["--help"], ["--version"]):
            raise ValueError("no such option")
    elif words[0] in TRAINING:
        check_training(words, site, known)
    elif words != ["COMMAND", "--help"]:
        check_command(words)
    if "--config" in words:
        name = words[words.index("--config") + 1].removeprefix("recipes/")
        if PurePosixPath(name).parent.name and name not in recipes():
            raise ValueError(f"no shipped recipe {name}")


def check_training(words, site, known):
    if words[0] not in known:
        types = site.training_types(TRAINING[words[0]][0])
        known[words[0]] = {f.name for cls in types for f in fields(cls)}
    for word, value in zip(words, [*words[1:], ""], strict=True):
        key = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word == "--launch" and value not in (*layouts(), "LAYOUT"):
            raise ValueError(f"no layout {value}")
        if word.startswith("--") and key not in (
            *known[words[0]],
            *OF_LAUNCHER,
            "launch",
            "config",
            "help_all",
            "help",
        ):
            raise ValueError(f"no field {key}")


def check_command(words):
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    if name is None:
        raise ValueError("no such command")
    parser = StrictParser()
    importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
    parser.parse_args(words[len(name.split()) :])


class StrictParser(argparse.ArgumentParser):
    """A parser (also of subcommands) that raises instead of ending the process."""

    def error(self, message):
        raise ValueError(message)


def test_a_wrong_command_line_is_found(site):
    for line in (
        "evaluate --model m --data d",
        "grpo --no_such_field 1",
        "grpo --config quickstart/gpro.yaml",
        "nothing",
    ):
        with pytest.raises(ValueError):
            check(line.split(), site, {})


def test_recipes_named_in_prose_exist(repository):
    named = {
        (path.name, name)
        for pattern in BLOCKS_OF
        for path in repository.glob(pattern)
        for name in re.findall(
            r"\b(?:quickstart|personamem_v2|middle|smollm2)/\w+\.yaml", path.read_text(encoding="utf-8")
        )
    }
    assert named and not [pair for pair in named if pair[1] not in recipes()]
