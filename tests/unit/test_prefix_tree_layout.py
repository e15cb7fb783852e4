"""The tree holds exactly its rows: each path spells its row, each shared token stands once, and every
completion token has its pair."""

import random

import pytest
import torch
from tiny_tree import random_rows

from rft.prefix_tree.layout import Tree


def path_slots(tree, row):
    """The slots of a row, read off the nodes alone."""
    node, slots = tree.leaves[row], []
    while node >= 0:
        slots = [*range(tree.nodes[node].start, tree.nodes[node].end), *slots]
        node = tree.nodes[node].parent
    return slots


def check_tree(tree, rows, prompts):
    for r, row in enumerate(rows):
        slots = path_slots(tree, r)
        assert tree.tokens_T[slots].tolist() == list(row)
        assert tree.positions_T[slots].tolist() == list(range(len(row)))
        mine = tree.rows_N == r
        assert tree.slots_N[mine].tolist() == slots[prompts[r] - 1 : len(row) - 1][: len(row) - prompts[r]]
        assert tree.labels_N[mine].tolist() == list(row[prompts[r] :])
        assert tree.columns_N[mine].tolist() == list(range(len(row) - prompts[r]))
    end = 0
    for i, node in enumerate(tree.nodes):
        assert node.start == end < node.end <= node.stop
        end = node.end
        inside = [j for j, other in enumerate(tree.nodes) if node.end <= other.start < node.stop]
        assert all(j > i and tree.nodes[j].level > node.level for j in inside)
        if node.parent >= 0:
            parent = tree.nodes[node.parent]
            assert parent.end <= node.start < node.stop <= parent.stop and node.level == parent.level + 1
    assert end == len(tree.tokens_T)


@pytest.mark.parametrize("min_saving", [1, 8, 32])
@pytest.mark.parametrize("seed", range(20))
def test_every_path_spells_its_row(seed, min_saving):
    rows, prompts = random_rows(seed)
    check_tree(Tree(rows, prompts, min_saving=min_saving), rows, prompts)


@pytest.mark.parametrize("seed", range(20))
def test_a_prefix_stands_once(seed):
    rows, prompts = random_rows(seed)
    prefixes = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert len(Tree(rows, prompts, min_saving=1).tokens_T) == len(prefixes)


DEGENERATE = {
    "no rows": ([], []),
    "one row": ([[1, 2, 3]], [1]),
    "only empty rows": ([[], []], [0, 0]),
    "an empty row among others": ([[], [1, 2]], [0, 1]),
    "empty completions": ([[1, 2], [1, 2]], [2, 2]),
    "duplicate rows": ([[1, 2, 3], [1, 2, 3], [1, 2, 3]], [2, 2, 2]),
    "a row that begins another": ([[1, 2, 3, 4], [1, 2], [1, 2, 3]], [1, 1, 1]),
    "one-token branches": ([[1, 2, 3], [1, 2, 4], [1, 2, 5]], [2, 2, 2]),
    "nothing shared": ([[1, 2], [3, 4], [5, 6]], [1, 1, 1]),
    "a prompt that ends inside another's": ([[1, 2, 3, 4, 5], [1, 2, 3, 9]], [4, 2]),
    "each row a step deeper": ([list(range(n)) + [49] for n in range(1, 30)], [1] * 29),
}


@pytest.mark.parametrize("min_saving", [1, 5, 100])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_trees(name, min_saving):
    rows, prompts = DEGENERATE[name]
    check_tree(Tree(rows, prompts, min_saving=min_saving), rows, prompts)


def test_a_small_saving_is_not_worth_a_node():
    rows = [[1] * 100 + [2, 3, 4 + i] for i in range(3)]
    assert len(Tree(rows, [100] * 3, min_saving=1).nodes) == 4
    # 4 shared tokens, repeated twice: 8 saved
    assert len(Tree([row[98:] for row in rows], [2] * 3, min_saving=32).nodes) == 3


def test_token_ratio_counts_what_is_shared():
    rows = [[7] * 90 + [10 + i] * 10 for i in range(4)]
    assert Tree(rows, [90] * 4).token_ratio == 400 / 130


def test_padded_rows_are_the_same_tree():
    rows, prompts = random_rows(3)
    left, right = max(prompts), max(len(row) - p for row, p in zip(rows, prompts, strict=True)) + 2
    ids = torch.full((len(rows), left + right), 49)
    mask = torch.zeros_like(ids)
    for r, (row, p) in enumerate(zip(rows, prompts, strict=True)):
        ids[r, left - p : left - p + len(row)] = torch.tensor(row)
        mask[r, left - p : left - p + len(row)] = 1
    padded = Tree.from_padded(ids, mask, right)
    check_tree(padded, rows, prompts)
    assert padded.shape == (len(rows), right)
    assert padded.nodes == Tree(rows, prompts).nodes


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("nested", [False, True])
def test_known_prompts_give_the_tree_that_sorting_gives(seed, nested):
    """With `nested`, some prompts begin others, so that their rows mix."""
    rng = random.Random(seed)
    history = [rng.randrange(9) for _ in range(40)]
    prompts = [history + [rng.randrange(3) for _ in range(rng.randint(1, 6))] for _ in range(5)]
    if not nested:
        prompts = [[*prompt, 100 + i] for i, prompt in enumerate(prompts)]
    rows, lengths, groups = [], [], []
    for _ in range(24):
        group = rng.randrange(5)
        rows.append(prompts[group] + [rng.randrange(3) for _ in range(rng.randint(1, 5))])
        lengths.append(len(prompts[group]))
        groups.append(group)
    known, sorted_ = Tree(rows, lengths, groups=groups, min_saving=1), Tree(rows, lengths, min_saving=1)
    assert known.nodes == sorted_.nodes and known.leaves == sorted_.leaves
    for name in ("tokens_T", "positions_T", "slots_N", "labels_N", "rows_N", "columns_N"):
        assert torch.equal(getattr(known, name), getattr(sorted_, name)), name
