"""Shipped files are found by name from any folder; a local file of that name comes first."""

import logging
import shutil
import subprocess
import sys

import pytest

from rft import shipped
from rft.cli import main
from rft.data.tokenizer import checkpoint
from rft.errors import CheckpointError, RecipeError
from rft.shipped import RECIPES, locate, recipe, recipes, shipped_recipe


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, caplog):
    """An empty working directory, and log lines that can be read."""
    monkeypatch.chdir(tmp_path)
    shipped._say.cache_clear()
    caplog.set_level(logging.INFO, logger="rft.shipped")
    return tmp_path


@pytest.mark.parametrize("name", ["quickstart/grpo.yaml", "recipes/quickstart/grpo.yaml"])
def test_a_recipe_is_found_from_any_folder_and_its_place_is_told_once(elsewhere, caplog, name):
    assert recipe(name) == recipe(name) == RECIPES / "quickstart/grpo.yaml"
    assert caplog.messages == [f"{name}: comes with rft ({RECIPES / 'quickstart/grpo.yaml'})"]


def test_a_local_file_comes_first_and_is_told(elsewhere, caplog):
    local = elsewhere / "quickstart/grpo.yaml"
    local.parent.mkdir()
    local.write_text("seed: 1\n")
    assert recipe("quickstart/grpo.yaml").samefile(local)
    assert caplog.messages == [
        "quickstart/grpo.yaml: the local one is used, not the one of this name that comes with rft"
    ]
    assert shipped_recipe("quickstart/grpo.yaml") == RECIPES / "quickstart/grpo.yaml"


def test_nothing_is_told_of_a_path_that_can_mean_one_file_only(elsewhere, caplog, monkeypatch):
    own = elsewhere / "own.yaml"
    own.write_text("seed: 1\n")
    assert recipe("own.yaml").samefile(own) and recipe(str(own)) == own
    monkeypatch.chdir(RECIPES.parent)
    assert recipe("recipes/quickstart/grpo.yaml").samefile(RECIPES / "quickstart/grpo.yaml")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("quickstart/gpro.yaml", "did you mean quickstart/grpo.yaml"),
        ("quikstart/memory-grpo.yaml", "did you mean quickstart/memory_grpo.yaml"),
        ("personamem_v2/grpo_32.yaml", "did you mean personamem_v2/grpo_32k.yaml"),
        ("grpo.yaml", "quickstart/grpo.yaml"),
        ("x", "`rft recipes` lists them"),
        ("./quickstart/grpo.yaml", "no such file"),  # says that it is a local path
        ("../quickstart/grpo.yaml", "no such file"),
        ("recipes/../launch/zero3.yaml", "no such file"),
    ],
)
def test_a_name_that_is_not_there_is_refused_with_the_nearest(elsewhere, name, said):
    with pytest.raises(RecipeError, match=said) as refused:
        recipe(name)
    assert str(refused.value).startswith(f"{name}: no such file, and no such recipe comes with rft; ")


def test_the_shipped_checkpoint_is_found_by_its_long_name_alone(elsewhere):
    assert checkpoint("recipes/quickstart/base") == str(RECIPES / "quickstart/base")
    assert checkpoint("quickstart/base") == "quickstart/base"  # an id of the Hub
    with pytest.raises(CheckpointError, match="recipes/quickstart/bases: no such folder"):
        checkpoint("recipes/quickstart/bases")
    shutil.copytree(RECIPES / "quickstart/base", elsewhere / "recipes/quickstart/base")
    assert locate("recipes/quickstart/base").samefile(elsewhere / "recipes/quickstart/base")


def test_the_list_says_of_every_recipe_what_it_trains_and_on_what(elsewhere, capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(recipes()) >= 18
    for name, line in zip(recipes(), lines, strict=False):
        shown, purpose = line.split(maxsplit=1)
        assert shown == name and ("GPU" in purpose or "CPU" in purpose), line
        assert purpose.endswith(".") and ". " not in purpose and len(line) <= 160, line


def test_a_recipe_is_shown_and_copied(elsewhere, capsys):
    assert main(["recipes", "show", "quickstart/sft.yaml"]) == 0
    text = (RECIPES / "quickstart/sft.yaml").read_text()
    assert capsys.readouterr().out == text
    assert main(["recipes", "copy", "quickstart/sft.yaml", "own"]) == 0
    assert capsys.readouterr().out == "own/sft.yaml\n" and (elsewhere / "own/sft.yaml").read_text() == text
    assert main(["recipes", "copy", "quickstart/sft.yaml", "own"]) == 2
    assert "own/sft.yaml: exists; name another folder" in capsys.readouterr().err
    assert main(["recipes", "show", "quickstart/stf.yaml"]) == 2
    assert "did you mean quickstart/sft.yaml" in capsys.readouterr().err


def test_nothing_heavy_is_imported_for_help_and_for_the_list(repository):
    code = (
        "import sys, rft; assert 'rft.cli' not in sys.modules\n"
        "from rft.cli import main; main(['--help']); main(['recipes'])\n"
        "print({'torch', 'transformers', 'trl', 'numpy', 'rich', 'yaml', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_training_on_windows_is_refused_in_one_line(repository, tmp_path):
    """A Python without SIGUSR1, as on Windows."""
    code = (
        "import signal, sys; del signal.SIGUSR1\n"
        "from rft.cli import main\n"
        "sys.exit(main(['grpo', '--config', 'quickstart/grpo.yaml']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: training does not run on Windows, which has no SIGUSR1; use WSL, Linux or macOS"
    )
    assert "Traceback" not in done.stderr
