"""Whether the Hugging Face Hub answers, found out in two seconds.

Its own client tries again for 23 to 49 seconds when there is no network. What is asked of it goes through `local_only`: without a
network, what lies in the cache is taken at once, and what does not is an error at once.
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
    """For `local_files_only`: whether `name`, a folder or a Hub id, is to be looked for on this machine alone."""
    return Path(name).expanduser().exists() or not reachable()


def out_of_reach(name: str) -> bool:
    """Whether `name` is no folder here, and the Hub does not answer for it."""
    return not Path(name).expanduser().exists() and not reachable()


@cache
def reachable() -> bool:
    """Whether the Hub's port can be reached; taken for granted behind a proxy. Asked once a process."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in PROXIES):
        return True
    server, found = urlparse(constants.ENDPOINT), []

    def knock() -> None:
        try:
            port = server.port or (80 if server.scheme == "http" else 443)
            socket.create_connection((server.hostname or "", port), timeout=SECONDS).close()
            found.append(True)
        except OSError:
            pass

    asking = threading.Thread(target=knock, daemon=True)  # a name server that does not answer waits longer than any timeout
    asking.start()
    asking.join(SECONDS)
    return bool(found)


def unreachable(name: str) -> str:
    """What to say of a Hub id that is not on this machine while the Hub does not answer."""
    from huggingface_hub import constants

    return (
        f"{name}: no such folder, not in the cache ({constants.HF_HUB_CACHE}), and {constants.ENDPOINT} does not answer; name a "
        "folder, or fetch it where there is a network (hf download)"
    )
