"""The `--launch` flag: `rft grpo --launch zero3 ...` is short for
`accelerate launch --config_file launch/zero3.yaml -m rft.train.grpo ...`. The full command is printed.

`accelerate launch` exits on the first signal and kills its workers after 30 seconds. This is too short to
finish a step, which can take minutes, and to save a checkpoint. Therefore this module catches Ctrl-C, SIGTERM
and SIGUSR1 and forwards them to the workers as SIGUSR1 (a repeated signal as SIGTERM); the launcher is set to
ignore SIGUSR1. The launcher also replaces the exit code of an interrupted run (75) by 1, so the code is read
from the run's `interrupted.json`.
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

import yaml

from rft.errors import RecipeError
from rft.shipped import LAUNCH, locate

OF_LAUNCHER = (
    "num_processes",
    "num_machines",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
    "gpu_ids",
)
"""Flags of the launcher; all other flags belong to the script."""
SEGMENTS = "expandable_segments:True"
LEFT = "interrupted.json"
MISTAKE = 2  # exit code of a user error


def take_launch(words: list[str]) -> tuple[str | None, list[str]]:
    """Splits `--launch NAME` off a command line.

    Returns:
        The layout name (None without `--launch`), and the other words.

    Raises:
        RecipeError: if no name follows `--launch`.
    """
    for i, word in enumerate(words):
        flag, equals, name = word.partition("=")
        if flag == "--launch":
            after = i + 1 if equals else i + 2
            name = name or "".join(words[i + 1 : after])
            if not name or name.startswith("-"):
                raise RecipeError(f"--launch needs a value: one of {', '.join(layouts())}")
            return name, words[:i] + words[after:]
    return None, words


def layouts() -> list[str]:
    """Returns the layout names that `--launch` accepts."""
    return sorted(path.stem for path in LAUNCH.glob("*.yaml"))


def command(layout: str, module: str, words: Sequence[str], gpus: int) -> list[str]:
    """Builds the `accelerate launch` command line.

    Args:
        layout: name of a file in `launch/`, without its extension.
        module: training module to run.
        words: command-line words of the launcher and of the module, mixed.
        gpus: number of GPUs of this machine; the default of `--num_processes`.

    Raises:
        RecipeError: if the layout is unknown, or if there is no GPU and `--num_processes` is not given.
    """
    config = LAUNCH / f"{layout}.yaml"
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
            raise RecipeError(
                f"--launch {layout}: no GPU here; add --num_processes N to run N processes on the CPU"
            )
        for_launcher += ["--num_processes", str(1 if layout == "one_gpu" else gpus)]
    port = _value(for_launcher, "main_process_port")
    machines = _value(for_launcher, "num_machines") or "1"
    if port is None and machines == "1":
        for_launcher += ["--main_process_port", "0"]  # 0: a free port
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
    """Raises RecipeError if another program listens on this port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            raise RecipeError(
                f"--main_process_port {port}: in use by another program (another run?); omit the flag to use"
                " a free port, or choose another port"
            ) from None


def allocator(words: Sequence[str]) -> dict[str, str]:
    """Returns the environment variables that set the CUDA allocator of a training run: memory in expandable
    segments.

    Prefix trees differ in size from batch to batch, and segments of fixed size would fragment the memory.
    Returns {} if the user has configured the allocator, or if vLLM's sleep mode is on, which does not support
    expandable segments.
    """
    sleeps = str(_field(words, "vllm_enable_sleep_mode")).lower() == "true"
    chosen = any(name in os.environ for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"))
    return {} if sleeps or chosen else {"PYTORCH_CUDA_ALLOC_CONF": SEGMENTS}


def launch(layout: str, module: str, words: list[str]) -> int:
    """Runs a training module under a layout. Returns its exit code: 75 if it was interrupted and saved a
    checkpoint."""
    import psutil
    import torch

    line = command(layout, module, words, torch.cuda.device_count())
    print(shlex.join(["accelerate", "launch", *line[3:]]), flush=True)
    folder = _field(words, "output_dir")
    out = Path(folder) if folder else None
    if out is not None:
        (out / LEFT).unlink(missing_ok=True)
    ignored = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited by the launcher
    process = subprocess.Popen(line, start_new_session=True, env=os.environ | allocator(words))
    received: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        received.append(number)
        # torchrun starts each worker in its own session
        for child in psutil.Process(process.pid).children(recursive=True):
            if module in child.cmdline():
                child.send_signal(signal.SIGUSR1 if len(received) == 1 else signal.SIGTERM)

    before = {
        number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    }
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
    """Runs `accelerate launch`, without its traceback if a process ended with a user error and has already
    printed it.

    Returns:
        The exit code of the process that failed first.
    """
    from accelerate.commands.launch import main as accelerate_launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        accelerate_launch()
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code != MISTAKE:
            raise
        return code
    except subprocess.CalledProcessError as error:  # a single process, which has printed its own traceback
        return error.returncode
    return 0


def for_dry_run(layout: str, module: str, words: list[str]) -> list[str] | None:
    """Returns the words of a dry run for the layout, which needs only one process; None if the words contain
    no `--dry_run`. Without a GPU, the layout's own number of processes is planned for."""
    import torch

    if not any(re.match(r"--dry[-_]run(=|$)", word) for word in words):
        return None
    line = command(layout, module, words, torch.cuda.device_count() or _processes(layout))
    for_script = line[line.index(module) + 1 :]
    if _value(words, "dry_run_on") is None:
        for_script += ["--dry_run_on", f"{layout}:{_value(line, 'num_processes')}"]
    return for_script


def _processes(layout: str) -> int:
    """The number of processes in the file of a layout; 0 if there is no such layout."""
    path = LAUNCH / f"{layout}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["num_processes"] if path.is_file() else 0


def _field(words: Sequence[str], name: str) -> Any:
    """A field of the run, from the flag, otherwise from the recipe; None if neither sets it."""
    if (named := _value(words, name)) is not None:
        return named
    if (recipe := _value(words, "config")) is not None and (path := locate(recipe)).is_file():
        recipe_fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        return recipe_fields.get(name) if isinstance(recipe_fields, dict) else None
    return None


def _value(words: Sequence[str], name: str) -> str | None:
    for i, word in enumerate(words):
        key, _, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and key.replace("-", "_") == name:
            return value if "=" in word else "".join(words[i + 1 : i + 2]) or None
    return None


if __name__ == "__main__":
    sys.exit(main())
