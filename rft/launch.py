"""`rft grpo --launch zero3 ...`: short for `accelerate launch --config_file launch/zero3.yaml -m rft.train.grpo ...`, which
is printed.

The launcher dies of signals that its processes should answer with a checkpoint, and waits 30 seconds where a step takes minutes.
So Ctrl-C, SIGTERM and SIGUSR1 are taken here and handed on as SIGUSR1, which launchers are made to ignore and processes
understand; and the exit code of a run that left (75), which a launcher turns into 1, is read from the run's `interrupted.json`.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft.errors import RecipeError

CONFIGS = Path(__file__).resolve().parent.parent / "launch"
OF_LAUNCHER = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "gpu_ids")
"""Flags that are the launcher's; all others are the script's."""
SEGMENTS = "expandable_segments:True"
LEFT = "interrupted.json"
MISTAKE = 2  # exit code of a user's mistake


def take_launch(words: list[str]) -> tuple[str | None, list[str]]:
    """The name behind `--launch`, and the words without it.

    Raises:
        RecipeError: no name there.
    """
    for i, word in enumerate(words):
        if word == "--launch" or word.startswith("--launch="):
            name, rest = (
                (word.partition("=")[2], words[i + 1 :]) if "=" in word else ("".join(words[i + 1 : i + 2]), words[i + 2 :])
            )
            if not name or name.startswith("-"):
                raise RecipeError(f"--launch: expected one of {', '.join(layouts())} behind it")
            return name, words[:i] + rest
    return None, words


def layouts() -> list[str]:
    """The names that `--launch` knows."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def command(layout: str, module: str, words: Sequence[str], gpus: int) -> list[str]:
    """The accelerate command. gpus: of this machine, the number of processes unless the words say another.

    Raises:
        RecipeError: no such layout, or no GPU and no word of how many processes.
    """
    config = CONFIGS / f"{layout}.yaml"
    if not config.is_file():
        raise RecipeError(f"--launch {layout}: no such layout; expected one of {', '.join(layouts())}")
    for_launcher: list[str] = []
    for_script: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in OF_LAUNCHER:
            for_launcher += [word] if "=" in word else [word, *words[:1]]
            words = words if "=" in word else words[1:]
        else:
            for_script.append(word)
    if not any(re.match(r"--num[-_]processes", word) for word in for_launcher):
        if not gpus and layout != "one_gpu":
            raise RecipeError(f"--launch {layout}: no GPU here; add --num_processes N to run N processes on the CPU")
        for_launcher += ["--num_processes", str(1 if layout == "one_gpu" else gpus)]
    port = _value(for_launcher, "main_process_port")
    machines = _value(for_launcher, "num_machines") or "1"
    if port is None and machines == "1":
        for_launcher += ["--main_process_port", "0"]  # a free one
    elif port not in (None, "0") and machines == "1":
        check_port(int(port))
    return [
        sys.executable,
        "-m",
        "rft.launch",
        "--config_file",
        str(config),
        *for_launcher,
        "-m",
        module,
        *for_script,
    ]


def check_port(port: int) -> None:
    """Raises RecipeError where another program listens on the port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            raise RecipeError(
                f"--main_process_port {port}: in use by another program (another run?); leave the flag out for a free "
                "port, or name another"
            ) from None


def allocator(words: Sequence[str]) -> dict[str, str]:
    """The environment in which a training with these words should start: CUDA memory in segments that grow. The trees of a
    training differ in size from batch to batch, and blocks of fixed size would leave holes between them. vLLM's sleep mode
    cannot take memory of this kind; where a user has set the allocator, that stays."""
    sleeps = str(_field(words, "vllm_enable_sleep_mode")).lower() == "true"
    chosen = any(name in os.environ for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"))
    return {} if sleeps or chosen else {"PYTORCH_CUDA_ALLOC_CONF": SEGMENTS}


def launch(layout: str, module: str, words: list[str]) -> int:
    """Run a training module under a layout; its exit code, 75 where it left with a checkpoint."""
    import psutil
    import torch

    line = command(layout, module, words, torch.cuda.device_count())
    print(shlex.join(["accelerate", "launch", *line[3:]]), flush=True)
    out = _output_dir(words)
    if out is not None:
        (out / LEFT).unlink(missing_ok=True)
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited by the launcher
    process = subprocess.Popen(line, start_new_session=True, env=os.environ | allocator(words))
    told: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        told.append(number)
        for child in psutil.Process(process.pid).children(recursive=True):  # torchrun gives each a session of its own
            if module in child.cmdline():
                child.send_signal(signal.SIGUSR1 if len(told) == 1 else signal.SIGTERM)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGUSR1, ignored)
    if out is not None and (out / LEFT).exists():
        return json.loads((out / LEFT).read_text())["exit_code"]
    return code if code >= 0 else 128 - code


def main() -> int:
    """`accelerate launch` without its traceback where a process ended of a user's mistake and has said so; the exit code is that
    of the process which failed first."""
    from accelerate.commands.launch import main as accelerate_launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        accelerate_launch()
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code != MISTAKE:
            raise
        return code
    except subprocess.CalledProcessError as error:  # one process, which has shown its own traceback
        return error.returncode
    return 0


def for_dry_run(layout: str, module: str, words: list[str]) -> list[str] | None:
    """The words of a dry run for the layout, which needs one process alone; None if they ask for no dry run."""
    import torch

    if not any(re.match(r"--dry[-_]run(=|$)", word) for word in words):
        return None
    line = command(layout, module, words, torch.cuda.device_count())
    for_script = line[line.index(module) + 1 :]
    if _value(words, "dry_run_on") is None:
        for_script += ["--dry_run_on", f"{layout}:{_value(line, 'num_processes')}"]
    return for_script


def _output_dir(words: Sequence[str]) -> Path | None:
    """Where the run writes."""
    found = _field(words, "output_dir")
    return Path(found) if found else None


def _field(words: Sequence[str], name: str) -> Any:
    """A field of the run: the flag, or the recipe's; None if neither is there."""
    if (named := _value(words, name)) is not None:
        return named
    if (recipe := _value(words, "config")) is not None and Path(recipe).is_file():
        import yaml

        found = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
        return found.get(name) if isinstance(found, dict) else None
    return None


def _value(words: Sequence[str], name: str) -> str | None:
    for i, word in enumerate(words):
        key, _, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and key.replace("-", "_") == name:
            return value if "=" in word else "".join(words[i + 1 : i + 2]) or None
    return None


if __name__ == "__main__":
    sys.exit(main())
