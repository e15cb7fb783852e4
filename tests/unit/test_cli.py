"""The `rft` command: what it lists, and how it refuses."""

import subprocess
import sys

import pytest

from rft.cli import COMMANDS, TRAINING, main
from rft.screen import counted


def test_every_command_is_listed(capsys):
    assert main([]) == main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in {**COMMANDS, **TRAINING})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([*command.split(), "--help"])
    assert done.value.code == 0 and f"usage: rft {command}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["data"], ["data", "--help"], ["data", "-h"]])
def test_a_group_lists_its_commands(words, capsys):
    assert main(words) == 0
    assert "rft data check" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["nothing"], ["data", "nothing"]])
def test_an_unknown_command_is_an_error(words, capsys):
    assert main(words) == 2
    assert f"error: no such command: {' '.join(words)}" in capsys.readouterr().err


def test_the_package_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "rft", "recipes"], capture_output=True, text=True)
    assert done.returncode == 0 and "quickstart/grpo.yaml" in done.stdout


@pytest.mark.parametrize(
    "number, noun, text",
    [
        (1, "history", "1 history"),
        (0, "persona", "0 personas"),
        (2550, "memory", "2,550 memories"),
        (2, "batch", "2 batches"),
    ],
)
def test_a_number_has_a_noun_in_singular_or_plural(number, noun, text):
    assert counted(number, noun) == text
