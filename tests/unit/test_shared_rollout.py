"""A rollout shared by 2 and 4 processes is that of one: greedy tokens, log-probs, and what is refused. Each
process holds the keys and values of its heads."""

import gc

import pytest
import ranks
import torch
import torch.distributed as dist
from test_prefix_tree_distributed import new_model, wrap
from test_prefix_tree_sample import EOS, some_prompts
from test_sequence_parallel import HEADS
from tiny_families import farthest, model_of, trained
from tiny_tree import tiny_model
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from rft.errors import ModelError
from rft.prefix_tree import sample as sampling
from rft.prefix_tree import shared_rollout
from rft.prefix_tree.decode import Decode
from rft.prefix_tree.forward import forward_of
from rft.prefix_tree.sample import Pace, sample

WORLD = 4
SIZES = (2, 4)
LENGTH = 40
MODELS = {
    "general": tiny_model,  # 4 heads over 2 key heads: 4 ranks repeat them
    "twelve heads": lambda: tiny_model(**HEADS),
    "fused": lambda: model_of("qwen3", torch.float64),
}
PROMPTS = {
    "forest": some_prompts(0),
    "one row": [[3, 4, 5, 6, 7]],
    "three rows": [[7] * 40 + [n] * n for n in (1, 2, 9)],  # the last of four ranks has a copy
    "two tokens": [[7, 8], [7, 8], [7, 9]],  # the last rank prefills padding
}
CUDA = Pace(16, True)
"""Rows that have ended stay until half have; buckets are filled with copies."""
GREEDY = [
    *(("general", name, None) for name in PROMPTS),
    *((kind, "forest", None) for kind in MODELS if kind != "general"),
    ("general", "forest", CUDA),
    ("fused", "three rows", CUDA),
]
SAMPLED = {
    "plain": ("general", {}),
    "filtered": ("fused", {"temperature": 1.3, "top_p": 0.8, "top_k": 20, "min_p": 0.02}),
}


def norm(self, x):
    """Qwen3's norm in the dtype it is given: its own computes in float32."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def greedy(kind, name, pace, group=None):
    with pytest.MonkeyPatch.context() as patch:
        if pace is not None:
            patch.setattr(sampling, "pace", lambda device: pace)
        return sample(
            MODELS[kind](), PROMPTS[name], max_new_tokens=LENGTH, eos_ids=EOS, temperature=0, group=group
        )


def sampled(kind, extra, rank, group):
    """Completions, their distance from the trainer's log-probs, and whether all ranks have the same."""
    model, prompts = MODELS[kind](), some_prompts(1, generations=5)
    found = sample(
        model,
        prompts,
        max_new_tokens=20,
        eos_ids=EOS,
        generator=torch.Generator().manual_seed(rank),
        group=group,
        **extra,
    )
    of_ranks = [None] * dist.get_world_size(group)
    dist.all_gather_object(of_ranks, found, group=group)
    off = farthest(found[1], trained(model, prompts, found[0], extra.get("temperature", 1.0)))
    return prompts, found[0], off, all(one == found for one in of_ranks)


def refusal(group):
    """What a rank says of prompts of which one contains a token without an embedding."""
    model = tiny_model()
    model.model.embed_tokens.weight.data[0] = torch.nan
    model.lm_head.weight = torch.nn.Parameter(torch.ones_like(model.lm_head.weight))
    try:
        sample(model, [[1, 2], [3, 0], [4, 5]], max_new_tokens=3, eos_ids=EOS, group=group)
    except ModelError as error:
        return str(error)


def held(group=None):
    """Bytes of keys and values that a process holds after a rollout: of prompts, and of what was drawn."""
    made = []

    def kept(kind):
        def make(*args):
            made.append(kind(*args))
            return made[-1]

        return make

    with pytest.MonkeyPatch.context() as patch:
        for name in ("Decode", "ShardDecode"):
            patch.setattr(shared_rollout, name, kept(getattr(shared_rollout, name)))
        model = tiny_model(num_attention_heads=8, num_key_value_heads=4)
        sample(model, [[1] * 300] * 8, max_new_tokens=30, eos_ids=[], group=group)
    (decode,) = made
    assert isinstance(decode, Decode)
    of_prompts = [x for pair in decode.prefill.cache.values() for x in pair]
    return [
        sum(x.untyped_storage().nbytes() for x in tensors)
        for tensors in (of_prompts, decode.suffixes.layers.values())
    ]


def prompts_of(group):
    """Prompts of which those of one group are answered sooner."""
    return [[3 + group, 2, 3]] * (2 + group)


def process(rank, world, port, results):
    torch.set_num_threads(1)
    Qwen3RMSNorm.forward = norm
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    pairs, _ = dist.new_subgroups(2)
    found = {"forwards": set()}
    with pytest.MonkeyPatch.context() as patch:

        def spy(*args):
            made = forward_of(*args)
            found["forwards"].add(type(made).__name__)
            return made

        patch.setattr(sampling, "forward_of", spy)
        for size, group in zip(SIZES, (pairs, dist.group.WORLD), strict=True):
            for case in GREEDY:
                found["greedy", size, *case] = greedy(*case, group)
            for name, (kind, extra) in SAMPLED.items():
                found["sampled", size, name] = sampled(kind, extra, rank, group)
            found["refusal", size] = refusal(group)
            found["held", size] = held(group)
    own = sample(
        wrap("fsdp2", new_model()),
        prompts_of(rank // 2),
        max_new_tokens=LENGTH,
        eos_ids=EOS,
        temperature=0,
        group=pairs,
    )[0]
    found["in step"] = [None] * world
    dist.all_gather_object(found["in step"], own)
    if rank == world - 1:
        for case in GREEDY:
            found["greedy", 1, *case] = alone = greedy(*case)
            prompts = PROMPTS[case[1]]
            found["off", *case] = farthest(alone[1], trained(MODELS[case[0]](), prompts, alone[0]))
        found["held", 1] = held()
        torch.save(found, results)
    gc.collect()  # as in test_prefix_tree_distributed
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    results = tmp_path_factory.mktemp("ranks") / "found.pt"
    ranks.run(process, WORLD, str(results))
    return torch.load(results, weights_only=False)


@pytest.mark.parametrize(("kind", "name", "pace"), GREEDY)
@pytest.mark.parametrize("size", SIZES)
def test_greedy_completions_are_those_of_one_process(found, size, kind, name, pace):
    (completions, logps), (expected, alone) = (found["greedy", n, kind, name, pace] for n in (size, 1))
    assert completions == expected
    assert farthest(logps, [torch.tensor(row, dtype=torch.float64) for row in alone]) < 1e-9
    assert found["off", kind, name, pace] < 1e-9  # the trainer's
    if name == "forest":
        lengths = [len(completion) for completion in completions]
        assert min(lengths) < LENGTH / 2 and len(set(lengths)) > 1, "rows that end at different steps"


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("size", SIZES)
def test_sampled_logps_are_the_trainers_and_all_ranks_have_the_same(found, size, name):
    prompts, completions, off, alike = found["sampled", size, name]
    assert off < 1e-9 and alike
    for prompt in {tuple(prompt) for prompt in prompts}:
        of_prompt = [tuple(c) for p, c in zip(prompts, completions, strict=True) if tuple(p) == prompt]
        assert len(set(of_prompt)) > 1, "ranks draw alike"


def test_both_forwards_are_shared(found):
    assert found["forwards"] == {"Fused", "General"}


@pytest.mark.parametrize("size", SIZES)
def test_numbers_that_are_none_name_their_row(found, size):
    assert "row 1 (and 0 more) are NaN at token 1" in found["refusal", size]


@pytest.mark.parametrize("size", SIZES)
def test_a_process_holds_the_keys_and_values_of_its_heads(found, size):
    (prompts, drawn), (all_prompts, all_drawn) = found["held", size], found["held", 1]
    print(f"group of {size}: {prompts:,} bytes of the prompts, {drawn:,} of what was drawn")
    assert all_prompts == 3 * 2 * 300 * 4 * 8 * 8  # layers, K and V, tokens, heads, size, bytes
    assert (prompts * size, drawn * size) == (all_prompts, all_drawn)


def test_groups_wait_for_each_other_where_weights_are_sharded(found):
    expected = [
        sample(new_model(), prompts_of(group), max_new_tokens=LENGTH, eos_ids=EOS, temperature=0)[0]
        for group in range(2)
    ]
    assert found["in step"] == [expected[0], expected[0], expected[1], expected[1]]
    assert len(expected[0][0]) != len(expected[1][0]), "one group waits for the other"
