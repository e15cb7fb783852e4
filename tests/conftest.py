"""What many tests share: real data where it is, a simulated dataset, a tiny tokenizer and model, each made
once a session."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# two test files at a time: more threads only wait for one another
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def cudnn_attends_the_next_test_too() -> Iterator[None]:
    """A test after which cuDNN is used no more in this process would change what later tests run."""
    yield
    cudnn = sys.modules.get("rft.prefix_tree.cudnn")
    assert cudnn is None or not cudnn._given_up, "set RFT_ATTENTION=flash where cuDNN cannot be measured"


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def mini_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty simulated personas in the official layout."""
    from rft.simulate.pipeline import simulate
    from rft.simulate.profile import Settings

    out = tmp_path_factory.mktemp("data") / "mini"
    simulate(Settings("mini", personas=30, seed=0), out)
    return out


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised two-layer Qwen3 with a tokenizer that knows the mini profile's words."""
    from transformers import set_seed

    from rft.toy import exercises
    from rft.toy.model import make_model, make_tokenizer

    texts = ["\n".join(m["content"] for m in exercises.document(0, i, 0.5, drills=0.3)) for i in range(200)]
    tokenizer = make_tokenizer([*texts, *exercises.question_words() * 20], vocab_size=1024)
    set_seed(0)
    model = make_model(tokenizer, hidden_size=64, layers=2)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
