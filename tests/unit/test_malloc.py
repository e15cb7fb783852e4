"""Freed memory is kept while the machine has enough, and returned when it has not."""

import json
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import json, psutil, torch
from rft.train import malloc

def resident():
    return psutil.Process().memory_info().rss >> 20

malloc.keep_freed_memory()
tensors = [torch.ones(10, 1 << 18) for _ in range(40)]  # 10 MiB each
kept = tensors[::8]
del tensors
found = [resident()]
for enough in (0, 2):  # there is always enough; there never is
    malloc.ENOUGH = enough
    malloc.ReturnFreedMemory().on_step_end(None, None, None)
    found.append(resident())
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this allocator is not glibc's")
def test_freed_memory_goes_back_when_little_is_left():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    freed, enough, short = json.loads(done.stdout)
    assert abs(enough - freed) < 50
    assert freed - short > 250  # of 350 MiB that were freed
