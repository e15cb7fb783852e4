"""What a process of a sequence-parallel group holds in an update and in a rollout of 16k tokens, measured."""

import socket
from pathlib import Path
from typing import Any

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
from rft.prefix_tree.sample import sample

UPDATE = Setting(prompt_tokens=16_384, generations=4, completion_tokens=64, checkpointing=True)
RANKS = (1, 2, 4)


def update(model: Any, group: Any) -> None:
    logps_BC, _ = tree_logps(model, Tree(*questions(UPDATE)), compute_entropy=True, group=group)
    (-torch.exp(logps_BC - logps_BC.detach())).sum().backward()


def rollout(model: Any, group: Any) -> None:
    prompts = [row[:length] for row, length in zip(*questions(UPDATE), strict=True)]
    sample(model, prompts, max_new_tokens=UPDATE.completion_tokens, eos_ids=[], group=group)


PHASES = {"update": update, "rollout": rollout}


def process(rank: int, ranks: int, port: int, phase: str, results: str) -> None:
    """Writes the most bytes that this process's tensors held at once beside weights and gradients, as torch's
    allocator counts them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    model = policy(UPDATE)
    with profile(use_cpu=True, profile_memory=True) as watch:
        PHASES[phase](model, dist.group.WORLD if ranks > 1 else None)
    held = most = 0
    events = [event for event in watch.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    Path(f"{results}_{rank}").write_text(str(most))
    dist.destroy_process_group()


def peak(ranks: int, phase: str, results: Path) -> int:
    """The bytes of the process that holds the most."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (ranks, port, phase, str(results)), nprocs=ranks)
    return max(int(Path(f"{results}_{rank}").read_text()) for rank in range(ranks))


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "most"), [("update", 0.6), ("rollout", 1.0)])
def test_every_doubling_of_a_group_halves_what_a_process_holds(phase, most, tmp_path):
    """Not quite: the table of scores, and the tree itself, are complete in every process. In a rollout, 4
    processes hold one of the two key heads each, as 2 do: less than half is saved."""
    peaks = {ranks: peak(ranks, phase, tmp_path / str(ranks)) for ranks in RANKS}
    print(phase, {ranks: f"{size / 2**20:.0f} MiB" for ranks, size in peaks.items()})
    assert peaks[2] < 0.6 * peaks[1]
    assert peaks[4] < most * peaks[2]
