"""The wheel as a user has it: built, installed beside nothing else of ours, and run from an empty folder in
which the checkout cannot be imported."""

import os
import re
import signal
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from rft import __version__

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> Path:
    """Built by the backend of the `dev` extra, so that no network is needed."""
    out = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out)]
    subprocess.run([*build, str(repository)], check=True)
    (built,) = out.iterdir()
    return built


class Installed:
    """The installed wheel, and an empty folder to run it in; the dependencies are those of this Python."""

    def __init__(self, target: Path, folder: Path):
        self.target, self.folder = target, folder
        left_out = ("PYTHONPATH", "PYTHONSAFEPATH")
        self.env = {name: value for name, value in os.environ.items() if name not in left_out}
        self.env |= {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.env["CUDA_VISIBLE_DEVICES"] = ""  # the same plan on every machine

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def rft(self, *words: str) -> tuple[int, str]:
        """The exit code and the output of the command that pip has installed."""
        process = self.start(str(self.target / "bin/rft"), *words)
        said, _ = process.communicate()
        return process.returncode, said


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    target = tmp_path_factory.mktemp("site")
    install = [*PIP, "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True)
    return Installed(target, tmp_path_factory.mktemp("elsewhere"))


def test_the_wheel_is_whole(wheel, repository):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(f"rft-{__version__}.dist-info/METADATA").decode())
    for folder in ("recipes", "launch", "rft", "reward"):
        for path in (repository / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(repository).as_posix()
                assert (name if folder in ("rft", "reward") else f"rft/share/{name}") in names, name
    assert {name.split("/")[0] for name in names} == {"rft", "reward", f"rft-{__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name]
    assert metadata["Version"] == __version__ and metadata["Requires-Python"] == ">=3.11"


def test_an_old_python_is_refused_in_one_line(wheel, tmp_path):
    old = ["--python-version", "3.10", "--only-binary", ":all:", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*PIP, "install", *old, "--target", str(tmp_path), str(wheel)], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "requires a different Python: 3.10" in done.stderr and "not in '>=3.11'" in done.stderr


def test_the_installed_one_is_imported_and_knows_its_files(installed):
    code = "import reward, rft, rft.shipped as s; print(rft.__file__, reward.__file__, s.RECIPES, s.LAUNCH)"
    said, _ = installed.start(sys.executable, "-c", code).communicate()
    share = installed.target / "rft/share"
    assert said.split() == [
        str(installed.target / "rft/__init__.py"),
        str(installed.target / "reward/__init__.py"),
        str(share / "recipes"),
        str(share / "launch"),
    ]


def test_it_lists_and_shows_its_recipes(installed, repository):
    """The list and the help need no dependency at all: -S leaves out all installed packages."""
    bare = [sys.executable, "-S", str(installed.target / "bin/rft")]
    said, _ = installed.start(*bare, "--help").communicate()
    assert said.startswith("usage: rft COMMAND")
    said, _ = installed.start(*bare, "recipes").communicate()
    shipped = sorted(path.relative_to(repository / "recipes") for path in repository.glob("recipes/*/*.yaml"))
    assert [line.split()[0] for line in said.splitlines()[: len(shipped)]] == [str(path) for path in shipped]
    code, said = installed.rft("recipes", "show", "quickstart/grpo.yaml")
    assert (code, said) == (0, (repository / "recipes/quickstart/grpo.yaml").read_text())


def test_the_quickstart_trains_from_the_shipped_base_and_a_dry_run_names_a_shipped_recipe(installed):
    """The quickstart on 45 people instead of 3,000 until it has trained, then told to stop. The dry run reads
    the data that it made, by the recipe's own path."""
    code, said = installed.rft("quickstart", "--help")
    assert code == 0 and "usage: rft quickstart" in said

    few = (
        "import sys; from rft.cli import main; from rft.toy import quickstart\n"
        "quickstart.PERSONAS = 45; sys.exit(main(['quickstart']))"
    )
    process = installed.start(sys.executable, "-c", few)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(r" step 5/180 loss ", line):
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 75, "".join(lines)
    assert re.search(r"stopped after step \d+, saved checkpoint-\d+", lines[-1])

    dry = ["--launch", "zero3", "--config", "quickstart/grpo.yaml", "--dry-run"]
    code, said = installed.rft("grpo", *dry, "--model_name_or_path", "recipes/quickstart/base")
    assert code == 0, said
    share = installed.target / "rft/share/recipes/quickstart"
    assert f"quickstart/grpo.yaml: comes with rft ({share / 'grpo.yaml'})" in said
    assert f"recipes/quickstart/base: comes with rft ({share / 'base'})" in said
    assert "data: out/quickstart/data" in said and "ZeRO-3, 8 processes" in said and "it fits" in said
