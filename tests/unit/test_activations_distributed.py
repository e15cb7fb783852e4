"""Tiles and offloaded checkpoints under DDP and under FSDP2: two processes train as one does without
either."""

import gc

import ranks
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_prefix_tree_distributed import new_model, train, wrap

from rft.train.activations import offload_checkpoints, tile_mlps


def process(rank, world, port, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    losses = {}
    for kind in ("ddp", "fsdp2"):
        model = new_model()
        tile_mlps(model, 8)
        offload_checkpoints(model)
        losses[kind] = train(wrap(kind, model), rank, world)
    if rank == 0:
        results.put(losses)
    gc.collect()
    dist.destroy_process_group()


def test_two_processes_are_one():
    results = mp.get_context("spawn").SimpleQueue()
    ranks.run(process, 2, results)
    alone = train(new_model())
    assert abs(alone[0] - alone[-1]) > 1e-2
    for kind, losses in results.get().items():
        assert max(abs(a - b) for a, b in zip(alone, losses, strict=True)) < 1e-9, kind
