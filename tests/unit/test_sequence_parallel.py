"""A tree over 2 and 4 processes is the tree of one: scores, every gradient, and training. What cannot be
shared out is refused before anything is loaded."""

import gc
from types import SimpleNamespace

import pytest
import ranks
import torch
import torch.distributed as dist
from test_prefix_tree_distributed import STEPS, new_model, wrap
from tiny_tree import gradients, random_rows, tiny_model
from trl import ModelConfig

from rft.errors import RecipeError, TrainingError
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps
from rft.train import activations
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.recipe import DataArguments, parse
from rft.train.sequence import SequenceMixin, check_sequence_parallel

WORLD = 4
HEADS = {"num_attention_heads": 12, "num_key_value_heads": 6}  # 4 ranks: 6 key heads become 12
TREES = {
    "forest": random_rows(0),
    "another": random_rows(3, histories=3),
    "three tokens": ([[3, 4, 5]], [2]),  # the last rank of four has only padding
    "two tokens": ([[7, 8], [7, 9]], [1, 1]),
    "no completion": ([[3, 4, 5, 6, 7], [3, 4, 9, 9, 9, 9, 1, 2]], [5, 5]),  # only one rank predicts
}
MODELS = {"grouped": {}, "six key heads": HEADS, "no checkpoints": {}, "less held": {}}
CASES = [("grouped", name) for name in TREES] + [(kind, "forest") for kind in MODELS if kind != "grouped"]


def model_of(kind):
    model = tiny_model(**MODELS[kind]).train()
    if kind != "no checkpoints":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def measured(kind, rows, prompts, group=None):
    """Log-probs, entropies, and the mean over the group's ranks of every gradient."""
    model = model_of(kind)
    if group is not None and kind == "less held":  # as `grpo_128k.yaml`, and with `keep_attention`
        activations.KEPT_KEYS = 1
        activations.tile_mlps(model, 5)
        activations.offload_checkpoints(model)
        activations.keep_attention(model)
    tables = tree_logps(model, Tree(rows, prompts, min_saving=1), 0.8, True, chunk=8, group=group)
    found = gradients(model, *tables)
    if group is not None:
        for gradient in found.values():
            dist.all_reduce(gradient, group=group)
            gradient /= dist.get_world_size(group)
    return [table.detach() for table in tables], found


def train(model, groups, group=None, index=0):
    """The losses and last weights of five steps over `groups` groups with unequal trees."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    losses = []
    for step in range(STEPS):
        loss = 0.0
        for one in range(groups) if group is None else (index,):
            rows, prompts = random_rows(10 * step + one, histories=1 + one)
            logps, entropies = tree_logps(model, Tree(rows, prompts), 0.8, True, chunk=8, group=group)
            loss = loss - (logps.sum() + 0.1 * entropies.sum()) / 50
        if group is None:
            loss = loss / groups
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return torch.stack(losses), [p.detach() for p in whole]


def shares(trainer, rank):
    """What the last rank of four, the second of its group, gets from the others of its group."""

    def fails():
        raise TrainingError(f"on rank {rank}")

    doubled = [
        SequenceMixin.shared_out(trainer, list(range(n)), lambda mine: [(rank, 2 * i) for i in mine])
        for n in (0, 1, 5)
    ]
    once = SequenceMixin.once(trainer, lambda: rank)
    try:
        SequenceMixin.once(trainer, fails)
    except TrainingError as error:
        return doubled, once, str(error)


def process(rank, world, port, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    pairs, _ = dist.new_subgroups(2)
    found = {
        (size, kind, name): measured(kind, *TREES[name], group=group)
        for size, group in ((2, pairs), (4, dist.group.WORLD))
        for kind, name in CASES
    }
    trained = {}
    for kind in ("ddp", "fsdp2"):
        losses, weights = train(wrap(kind, new_model()), 2, pairs, rank // 2)
        dist.all_reduce(losses)
        trained[kind, 2] = losses / world, weights
    trained["ddp", 1] = train(wrap("ddp", new_model()), 1, dist.group.WORLD)
    shared = shares(SimpleNamespace(sequence=pairs), rank)
    if rank == world - 1:
        torch.save((found, trained, shared), results)
    gc.collect()  # as in test_prefix_tree_distributed
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    results = tmp_path_factory.mktemp("ranks") / "found.pt"
    ranks.run(process, WORLD, str(results))
    return torch.load(results)


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("size", [2, 4])
def test_scores_and_gradients_are_those_of_one_process(found, size, kind, name):
    tables, of_ranks = found[0][size, kind, name]
    alone, of_one = measured(kind, *TREES[name])
    assert tables[0].abs().max() > 1e-2
    for table, expected in zip(tables, alone, strict=True):
        assert (table - expected).abs().max() < 1e-9
    assert of_ranks.keys() == of_one.keys()
    for parameter, gradient in of_one.items():
        assert (of_ranks[parameter] - gradient).abs().max() < 1e-9, parameter


@pytest.mark.parametrize(("kind", "groups"), [("ddp", 1), ("ddp", 2), ("fsdp2", 2)])
def test_groups_train_as_one_process(found, kind, groups):
    """Four processes: one group, or two with unequal trees."""
    losses, weights = found[1][kind, groups]
    expected, of_one = train(new_model(), groups)
    assert (expected[0] - expected[-1]).abs() > 1e-2
    assert (losses - expected).abs().max() < 1e-8
    assert max((a - b).abs().max() for a, b in zip(weights, of_one, strict=True)) < 1e-8


def test_a_group_shares_out_rows_and_asks_once(found):
    doubled, once, error = found[2]
    assert doubled == [[], [(3, 0)], [(2, 0), (2, 2), (3, 4), (3, 6), (3, 8)]]
    assert once == 2 and error == "on rank 2"


@pytest.fixture
def recipe(repository, tmp_path):
    """Parses the quickstart's GRPO recipe, with a model of 12 query heads."""
    tiny_model(**HEADS).config.save_pretrained(tmp_path / "model")

    def parsed(*words):
        kinds = (DataArguments, HistoryGRPOConfig, ModelConfig)
        named = ["--output_dir", str(tmp_path), "--model_name_or_path", str(tmp_path / "model")]
        return parse(kinds, ["--config", str(repository / "recipes/quickstart/grpo.yaml"), *named, *words])

    return parsed


@pytest.mark.parametrize(
    ("size", "machine", "would_do"),
    [
        (4, "ddp:6:80", "the 6 processes of this run and the model's 12 query heads; 1, 2, 3 or 6 would do"),
        (8, "ddp:8:80", "the 8 processes of this run and the model's 12 query heads; 1, 2 or 4 would do"),
        (24, "ddp:24:80", "the model's 12 query heads; 1, 2, 3, 4, 6 or 12 would do"),
        (2, "ddp:1:80", "the 1 process of this run and the model's 12 query heads; 1 would do"),
    ],
    ids=["processes", "heads", "more than heads", "one process"],
)
def test_a_number_that_does_not_divide_is_refused_with_those_that_do(recipe, size, machine, would_do):
    _, args, model = recipe("--sequence_parallel", str(size), "--dry_run_on", machine)
    with pytest.raises(RecipeError, match=f"sequence_parallel {size}: it must divide .*{would_do}"):
        check_sequence_parallel(args, model)


def test_a_number_that_divides_is_taken(recipe):
    for size in (1, 2, 4):
        _, args, model = recipe("--sequence_parallel", str(size), "--dry_run_on", "ddp:8:80")
        check_sequence_parallel(args, model)
        assert args.units_per_generation(8) == args.units_per_generation(1) * 8 // size


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prefix_sharing", "off"], "set `prefix_sharing: on`, or `sequence_parallel: 1`"),
        (["--use_vllm", "true", "--vllm_mode", "colocate"], "`vllm_mode: server`, or `sequence_parallel: 1`"),
        (["--top_entropy_quantile", "0.2"], "would count a token 2 times"),
        (["--sequence_parallel", "0"], "sequence_parallel 0: expected 1 or more"),
    ],
    ids=["sharing off", "vllm", "quantile", "zero"],
)
def test_what_cannot_be_shared_out_is_refused(recipe, words, said):
    with pytest.raises(RecipeError, match=said):
        recipe("--sequence_parallel", "2", *words)
