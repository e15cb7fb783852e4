"""Small GRPO runs in processes that can be killed, and what such a run leaves, to compare."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SMALL = {
    "sft": ["--per_device_train_batch_size", "8", "--hard_targets", "1000"],
    "grpo": [
        "--per_device_train_batch_size",
        "8",
        "--max_prompt_tokens",
        "1500",
        "--mask_truncated_completions",
        "false",
    ],
    "memory_grpo": [
        "--window",
        "32k",
        "--per_device_train_batch_size",
        "4",
        "--chunk_tokens",
        "400",
        "--memory_tokens",
        "12",
    ],
}
GENERATES = ["--num_generations", "4", "--max_completion_length", "6"]
GENERATES += ["--rewards", f"{HERE / 'rewards_for_tests.py'}:scatter"]
TIMES = ("time", "runtime", "per_second", "profiling")  # metrics that no two runs agree on


def zero(stage: int) -> dict[str, str]:
    """The environment of a run under DeepSpeed's ZeRO, as accelerate sets it."""
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    } | ({"ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true"} if stage == 3 else {})


class Server:
    """`fork_server.py`, and the jobs it is given."""

    def __init__(self, folder: Path, data: Path, model: Path):
        env = os.environ | {
            "PYTHONPATH": f"{REPOSITORY}:{HERE}",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
        }
        self.folder, self.data, self.model = folder, data, model
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "fork_server.py")],
            cwd=folder,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(
        self,
        out: Path,
        *words: str,
        recipe: str = "grpo",
        kill: dict | None = None,
        processes: int = 1,
        env: dict | None = None,
        fixed: bool = False,
    ) -> dict[str, Any]:
        """A run of a recipe of the quickstart in small: its exit codes, what was happening when it was
        killed, what it said. `fixed`: with the completions and norms of `fixed_rollouts`."""
        out.mkdir(parents=True, exist_ok=True)
        log = out / "log.txt"
        before = log.stat().st_size if log.exists() else 0
        argv = [
            "--config",
            str(REPOSITORY / f"recipes/quickstart/{recipe}.yaml"),
            "--data",
            str(self.data),
            "--model_name_or_path",
            str(self.model),
            "--output_dir",
            str(out),
            "--token_cache",
            str(self.folder / "tokens"),
            "--questions_per_history",
            "2",
            *SMALL[recipe],
            *(GENERATES if recipe != "sft" else []),
            *words,
        ]
        job = {
            "recipe": recipe,
            "argv": argv,
            "processes": processes,
            "env": env or {},
            "log": str(log),
            "kill": kill,
            "fixed": fixed,
        }
        start = time.monotonic()
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("answer "):
            assert line, "the fork server died"
        answer = json.loads(line.removeprefix("answer "))
        return answer | {"said": log.read_bytes()[before:].decode(), "seconds": time.monotonic() - start}

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


def left(out: Path) -> dict[str, Any]:
    """Weights, completions and metrics of a finished run."""
    tables = sorted((out / "completions").glob("*.parquet"))
    weights = next(
        out / name for name in ("model.safetensors", "adapter_model.safetensors") if (out / name).exists()
    )
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return {
        "weights": load_file(weights),
        "completions": (
            pd.concat([pd.read_parquet(table) for table in tables]).to_dict("records") if tables else []
        ),
        "metrics": [
            {k: v for k, v in row.items() if not any(word in k for word in TIMES)} for row in history
        ],
        "file": (
            [
                {k: v for k, v in json.loads(line).items() if not any(word in k for word in TIMES)}
                for line in (out / "metrics.jsonl").read_text().splitlines()
            ]
            if (out / "metrics.jsonl").exists()
            else []
        ),
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bit for bit."""
    assert one["metrics"] == other["metrics"]
    assert one["file"] == other["file"]
    assert str(one["completions"]) == str(other["completions"])
    assert one["weights"].keys() == other["weights"].keys()
    for name, tensor in one["weights"].items():
        assert torch.equal(tensor, other["weights"][name]), name
