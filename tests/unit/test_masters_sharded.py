"""Masters under torch's own fully_shard on two processes: accelerate takes FSDP2 on no CPU."""

import gc

import ranks
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_tree import random_rows, tiny_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps
from rft.runs.masters import make_masters, sharding_precision

LR, STEPS = 5e-6, 3


def share_moved(weights, start):
    moved = sum((weights[name].float() != tensor.float()).sum().item() for name, tensor in start.items())
    return moved / sum(tensor.numel() for tensor in start.values())


def train_sharded(rank, world):
    """Three steps: the share of the masters that moved, the dtypes of masters and gradients, whether
    log-probs are finer than bfloat16 can hold, and whether the final weights are the masters rounded."""
    model = tiny_model(torch.bfloat16).train()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    make_masters(model)
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=sharding_precision(torch.bfloat16))
    fully_shard(model, mp_policy=sharding_precision(torch.bfloat16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    finer = []
    for step in range(STEPS):
        rows, prompts = random_rows(step, histories=2)
        with torch.autocast("cpu", torch.bfloat16):
            logps, _ = tree_logps(model, Tree(rows[rank::world], prompts[rank::world]))
        finer.append((logps != logps.bfloat16()).any().item())
        optimizer.zero_grad()
        (-logps.sum() / len(rows)).backward()
        optimizer.step()
    gradients = {p.grad.dtype for p in model.parameters()}
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    kept = get_model_state_dict(model, options=whole)
    model.to(torch.bfloat16)
    final = get_model_state_dict(model, options=whole)
    if rank:  # the whole weights are on the first process alone
        return None
    rounded = all(
        t.dtype == torch.bfloat16 and torch.equal(t, kept[name].bfloat16()) for name, t in final.items()
    )
    return share_moved(kept, start), {t.dtype for t in kept.values()} | gradients, all(finer), rounded


def process(rank, world, port, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    found = train_sharded(rank, world)
    if found:
        results.put(found)
    # what still refers to the group must not meet the end of the interpreter: FSDP2 aborts there at times
    gc.collect()
    dist.destroy_process_group()


def test_fully_sharded_weights_have_masters():
    results = mp.get_context("spawn").SimpleQueue()
    ranks.run(process, 2, results)
    moved, dtypes, logps_are_float32, final_is_rounded = results.get()
    assert moved >= 0.9
    assert dtypes == {torch.float32}
    assert logps_are_float32 and final_is_rounded
