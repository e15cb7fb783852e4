"""What tests of evaluation share: forty simulated people, a tiny model, and the chats of four users."""

from pathlib import Path

import pytest
import torch
from question_llm import of_user, save
from transformers import set_seed

from rft.models.local import LocalModel
from rft.simulate.pipeline import simulate
from rft.simulate.profile import Settings
from rft.tasks.base import Split
from rft.tasks.load import load_split
from rft.toy.model import make_model, make_tokenizer


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


@pytest.fixture(scope="module")
def checkpoint(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose greedy answers depend on what it reads."""
    folder = tmp_path_factory.mktemp("model")
    set_seed(0)
    tokenizer = make_tokenizer([m.content for h in split.histories.values() for m in h.messages], 768)
    model = make_model(tokenizer, hidden_size=64, layers=2)
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LocalModel:
    """That model, loaded."""
    return LocalModel(checkpoint, device="cpu", dtype="float32")


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A folder of imported chats: a history of each of four users (question_llm.py)."""
    for number in range(4):
        save(tmp_path / "chats", f"user{number}", of_user(number))
    return tmp_path / "chats"
