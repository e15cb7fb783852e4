"""A worker of `rft bench gpu` whose parts end in every way there is; by itself, so that it starts at once."""

import os
import time

CARD = {
    "name": "a card",
    "versions": {},
    "notes": [],
    "product_flops_per_second": 1.0,
    "copy_bytes_per_second": 1.0,
}


def unruly(pipe, out, rehearse):
    """Answers card, fails in kernels, dies in backends, skips update, hangs in everything else."""
    pipe.send(("ready", {}, ""))
    while True:
        name, seconds, done = pipe.recv()
        if name == "card":
            pipe.send(("done", CARD, ""))
        elif name == "kernels":
            pipe.send(("figures", {"cases": [], "skipped": ["so far"], "wrong": 0}, ""))
            pipe.send(("failed", {}, "RuntimeError: an illegal memory access"))
            time.sleep(60)  # and answers nothing any more
        elif name == "backends":
            os._exit(9)
        elif name == "update":
            pipe.send(("skipped", {}, "needs about 27.0 GiB, 22.0 are free on this card"))
        else:
            time.sleep(60)
