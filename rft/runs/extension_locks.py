"""Names the locks that make DeepSpeed wait before it starts.

PyTorch compiles DeepSpeed's extensions in a folder with a file `lock`, and every later process waits until it
is gone. A process that is killed while it compiles leaves the file behind, and later runs wait forever, in
silence.

Invariant: only locks that are older than this process are named: those of its own run are younger.
"""

import logging
import os
import sys
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)


def warn_of_old_locks() -> None:
    """Logs one line for each lock that DeepSpeed would wait for, on one process per machine."""
    under_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if not under_deepspeed or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    started = psutil.Process().create_time()
    for lock in sorted(_builds().glob("*/lock")):
        if lock.stat().st_mtime < started:
            logger.warning(
                "DeepSpeed waits as long as %s exists: a run was killed while it compiled this extension, or"
                " one compiles it now; if no other run is starting, delete the file",
                lock,
            )


def _builds() -> Path:
    """The folder in which PyTorch compiles extensions, as torch.utils.cpp_extension chooses it."""
    if chosen := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(chosen)
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    cuda = torch.version.cuda
    device = f"cu{cuda.replace('.', '')}" if cuda else "cpu"
    return Path(get_default_build_root(), f"py{sys.version_info.major}{sys.version_info.minor}_{device}")
