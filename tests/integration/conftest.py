"""What tests of evaluation share: forty simulated people."""

from pathlib import Path

import pytest

from rft.simulate.pipeline import simulate
from rft.simulate.profile import Settings
from rft.tasks.base import Split
from rft.tasks.load import load_split


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty simulated personas in the official layout; tests only read it."""
    folder = tmp_path_factory.mktemp("data") / "mini"
    simulate(Settings("mini", 40, seed=0), folder)
    return folder


@pytest.fixture(scope="session")
def split(data: Path) -> Split:
    """The questions of its split benchmark."""
    return load_split(data, "benchmark")
