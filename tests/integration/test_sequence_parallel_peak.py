"""What a process of a sequence-parallel group holds in an update of 16k tokens, measured."""

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.autograd.profiler import profile

from rft.bench.batch import questions
from rft.bench.policy import policy
from rft.bench.setting import Setting
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps

UPDATE = Setting(prompt_tokens=16_384, generations=4, completion_tokens=64, checkpointing=True)
RANKS = (1, 2, 4)


def process(rank: int, ranks: int, port: int, results: str) -> None:
    """Writes the most bytes that this process's tensors held at once beside weights and gradients, as torch's
    allocator counts them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    model, tree = policy(UPDATE), Tree(*questions(UPDATE))
    with profile(use_cpu=True, profile_memory=True) as watch:
        logps_BC, _ = tree_logps(
            model, tree, compute_entropy=True, group=dist.group.WORLD if ranks > 1 else None
        )
        (-torch.exp(logps_BC - logps_BC.detach())).sum().backward()
    held = most = 0
    events = [event for event in watch.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    Path(f"{results}_{rank}").write_text(str(most))
    dist.destroy_process_group()


def peak(ranks: int, results: Path) -> int:
    """The bytes of the process that holds the most."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (ranks, port, str(results)), nprocs=ranks)
    return max(int(Path(f"{results}_{rank}").read_text()) for rank in range(ranks))


@pytest.mark.slow
def test_every_doubling_of_a_group_halves_what_a_process_holds(tmp_path):
    """Not quite: the table of scores, and the tree itself, are complete in every process."""
    peaks = {ranks: peak(ranks, tmp_path / str(ranks)) for ranks in RANKS}
    print({ranks: f"{size / 2**20:.0f} MiB" for ranks, size in peaks.items()})
    assert peaks[2] < 0.6 * peaks[1]
    assert peaks[4] < 0.6 * peaks[2]
