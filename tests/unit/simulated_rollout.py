"""A rollout of Qwen3-4B at its full shape on a simulated GPU: the prompts' prefill, the first draw, and a
decode step with the space of all completions."""

import pytest
import torch
from fake_gpu import FakeGPU
from simulated_update import COMPLETION_TOKENS, Ranks, move, qwen3_4b, rows_of

from rft.prefix_tree import sequence_parallel, shared_rollout
from rft.prefix_tree.attention import forward_kwargs
from rft.prefix_tree.decode import Decode, Prefill
from rft.prefix_tree.forward import Fused, forward_of
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.sample import Draw
from rft.prefix_tree.shared_rollout import ShardDecode, ShardPrefill


def simulate(history: int, ranks: int, layers: int) -> dict[str, int]:
    """Bytes held at the most beside the weights (`peak`) by the first of so many ranks, after the prefill
    (`cache`), and what the rollout was: `tokens`, `rows`."""
    rows, lengths = rows_of(history)
    prompts = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    gpu, model, stub = FakeGPU(), qwen3_4b(layers), Ranks(ranks)
    with gpu, torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        for module in (sequence_parallel, shared_rollout):
            patch.setattr(module, "dist", stub)
        move(model)
        weights = gpu.peak = gpu.live
        tree = Tree(prompts, device="cuda:0")
        slots, own = -(-len(tree.tokens_T) // ranks), -(-len(prompts) // ranks)
        prefill = Prefill(tree) if ranks == 1 else ShardPrefill(tree, stub)
        places = torch.zeros(slots, dtype=torch.long, device="cuda:0")
        ends = torch.zeros(own, dtype=torch.long, device="cuda:0")
        draw, half = Draw(1.0, 1.0, 0, None, None), torch.autocast("cpu", torch.bfloat16)
        with half:
            draw(model(**forward_kwargs(places, places, prefill), logits_to_keep=ends).logits.squeeze(0))
        cache = gpu.live - weights
        leaves = sorted(tree.leaves)
        decode = (Decode if ranks == 1 else ShardDecode)(prefill, leaves, COMPLETION_TOKENS - 1)
        with half:
            forward = forward_of(model, model, decode, range(min(lengths), max(map(len, rows))))
            assert isinstance(forward, Fused)
            decode.suffixes.grow()
            draw(forward(ends, ends))
    return {"peak": gpu.peak - weights, "cache": cache, "tokens": len(tree.tokens_T), "rows": len(prompts)}
