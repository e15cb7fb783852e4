"""Processes of a group, for tests of what several ranks compute together."""

import socket
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp


def run(process: Callable[..., None], world: int, *args: Any) -> None:
    """Runs `process(rank, world, port, *args)` in `world` new processes, which meet at the free `port`, and
    waits for them.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a process failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (world, port, *args), nprocs=world)
