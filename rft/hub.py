"""A two-second test of whether the Hugging Face Hub is reachable.

The client of the Hub retries for 23 to 49 seconds if there is no network. Therefore every request first calls
`local_only`: without a network, cached files are used immediately, and a missing file is an error
immediately.
"""

import os
import socket
import threading
from functools import cache
from pathlib import Path
from urllib.parse import urlparse

SECONDS = 2.0
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def local_only(name: str) -> bool:
    """Returns the value for `local_files_only`: whether to look for `name`, a folder or a Hub id, only on
    this machine."""
    return Path(name).expanduser().exists() or not reachable()


def out_of_reach(name: str) -> bool:
    """Returns whether `name` is not a local folder and the Hub is not reachable."""
    return not Path(name).expanduser().exists() and not reachable()


@cache
def reachable() -> bool:
    """Returns whether the port of the Hub is reachable; assumed to be if a proxy is configured. Tested once
    per process."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in PROXIES):
        return True
    server, connected = urlparse(constants.ENDPOINT), []

    def knock() -> None:
        try:
            port = server.port or (80 if server.scheme == "http" else 443)
            socket.create_connection((server.hostname or "", port), timeout=SECONDS).close()
            connected.append(True)
        except OSError:
            pass

    asking = threading.Thread(target=knock, daemon=True)  # a DNS lookup can block for longer than the timeout
    asking.start()
    asking.join(SECONDS)
    return bool(connected)


def unreachable(name: str) -> str:
    """Returns the error message for a Hub id that is not on this machine while the Hub is not reachable."""
    from huggingface_hub import constants

    return (
        f"{name}: no such folder, not in the cache ({constants.HF_HUB_CACHE}), and {constants.ENDPOINT} does"
        " not answer; pass a local folder, or download it on a machine with a network (hf download)"
    )
