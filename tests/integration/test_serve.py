"""`transformers serve` with a tiny model, a real process, against the local backend: greedy, the same
answers."""

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from rft.evaluate.context import FullHistoryContext
from rft.evaluate.endpoint import EndpointAnswers
from rft.evaluate.model_answers import ModelAnswers
from rft.evaluate.results import read_rows
from rft.evaluate.run import evaluate
from rft.models.endpoint import Endpoint
from rft.models.local import LocalModel
from rft.tasks.load import load_split

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("fastapi") is None, reason="transformers serve needs fastapi and uvicorn"
    ),
]


@pytest.fixture
def url(tiny_checkpoint, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import sys; from transformers.cli.transformers import main; sys.argv = ['transformers',"
        " *sys.argv[1:]]; main()"
    )
    words = [
        "serve",
        str(tiny_checkpoint),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2)
                break
            except urllib.error.HTTPError:
                break  # it is there; without a Hub cache it cannot list models
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (tmp_path / "serve.log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


def plain(completion):
    """The server reads an answer of Qwen3's through its response template: white space around it goes,
    special tokens stay."""
    return completion.replace("<|im_start|>", "").strip()


@pytest.mark.parametrize("context", ["history", "none"])
def test_a_server_and_the_local_backend_answer_alike(url, tiny_checkpoint, mini_data, tmp_path, context):
    split = load_split(mini_data, "benchmark")
    here = evaluate(
        split,
        tmp_path / "here",
        ModelAnswers(LocalModel(tiny_checkpoint, "cpu", "float32"), context, 24),
        limit=12,
    )
    there = EndpointAnswers(
        Endpoint(url, str(tiny_checkpoint), concurrency=2, timeout=60), FullHistoryContext(context), 24
    )
    evaluate(split, tmp_path / "there", there, limit=12)
    said = [
        {row.id: plain(row.completion) for row in read_rows(tmp_path / name)} for name in ("here", "there")
    ]
    assert said[0] == said[1] and len(set(said[0].values())) > 1
    tokens = [{row.id: row.input_tokens for row in read_rows(tmp_path / name)} for name in ("here", "there")]
    assert tokens[0] == tokens[1] and here.n == 12
