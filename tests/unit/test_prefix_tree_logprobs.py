"""The tree computes what one row at a time computes: log-probs, entropies, every gradient, and the weights
after training, in float64."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_tree import VOCAB, gradients, random_rows, reference, tiny_model
from trl.trainer.utils import add_fused_lm_head

from rft.errors import ModelError, RecipeError
from rft.prefix_tree.attention import Plan
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import plain_logps, split, tree_logps


def largest(a, b):
    return (a - b).abs().max().item() if a.numel() else 0.0


def check_same(model, rows, prompts, tree, temperature=0.7, chunk=7):
    tree_tables = tree_logps(model, tree, temperature, compute_entropy=True, chunk=chunk)
    tree_gradients = gradients(model, *tree_tables)
    row_tables = reference(model, rows, prompts, temperature)
    row_gradients = gradients(model, *row_tables)
    for a, b in zip(tree_tables, row_tables, strict=True):
        assert a.shape == b.shape and largest(a, b) < 1e-9
    assert tree_gradients.keys() == row_gradients.keys()
    for name, gradient in tree_gradients.items():
        assert largest(gradient, row_gradients[name]) < 1e-9, name


@pytest.mark.parametrize("min_saving", [1, 32])
@pytest.mark.parametrize("seed", range(4))
def test_random_trees(seed, min_saving):
    rows, prompts = random_rows(seed)
    check_same(tiny_model(seed=seed), rows, prompts, Tree(rows, prompts, min_saving=min_saving))


@pytest.mark.parametrize(
    "rows, prompts",
    [
        ([[1, 2, 3]], [1]),
        ([[1, 2, 3], [1, 2, 3], [1, 2, 3]], [2, 2, 2]),
        ([[1, 2], [1, 2, 3], [1, 2]], [2, 2, 2]),
        ([[1, 2, 3, 4], [1, 2], [1, 2, 3]], [1, 1, 1]),
        ([[1, 2, 3], [1, 2, 4], [1, 2, 5]], [2, 2, 2]),
        ([[1, 2], [3, 4], [5, 6]], [1, 1, 1]),
        ([list(range(n)) + [49] for n in range(2, 20)], [1] * 18),
    ],
    ids=[
        "one row",
        "duplicates",
        "empty completions",
        "prefixes",
        "one-token branches",
        "nothing shared",
        "a step deeper each",
    ],
)
def test_degenerate_trees(rows, prompts):
    check_same(tiny_model(), rows, prompts, Tree(rows, prompts, min_saving=1))


def test_left_padded_rows():
    rows, prompts = [[1, 2, 3, 4, 5], [1, 2, 3, 9], [8, 7]], [3, 2, 1]
    ids = torch.tensor([[1, 2, 3, 4, 5], [0, 1, 2, 3, 9], [0, 0, 8, 7, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 0]])
    check_same(tiny_model(), rows, prompts, Tree.from_padded(ids, mask, 2, min_saving=1))


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("lora", [True, False])
def test_gradient_checkpointing_and_lora(lora, use_reentrant):
    rows, prompts = random_rows(1)
    model = tiny_model()
    if lora:
        model = get_peft_model(
            model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
        )
        model.enable_input_require_grads()
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    check_same(model, rows, prompts, Tree(rows, prompts, min_saving=1))
    assert all((p.grad is None) == (lora and "lora" not in name) for name, p in model.named_parameters())


def test_the_same_weights_after_five_steps():
    shared, alone = tiny_model(), tiny_model()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2) for model in (shared, alone)]
    for step in range(5):
        rows, prompts = random_rows(step)
        gradients(shared, *tree_logps(shared, Tree(rows, prompts), 0.9, compute_entropy=True))
        gradients(alone, *reference(alone, rows, prompts, 0.9))
        for optimizer in optimizers:
            optimizer.step()
    start = dict(tiny_model().named_parameters())
    for (name, a), b in zip(shared.named_parameters(), alone.parameters(), strict=True):
        assert largest(a, b) < 1e-8, name
        assert largest(a, start[name]) > 1e-3, name


def test_changing_one_branch_moves_no_sibling():
    rows = [[1] * 20 + [2, 3] + [10 + i] * (3 + i) for i in range(3)] + [
        [1] * 20 + [4] + [20 + i] * 5 for i in range(2)
    ]
    prompts = [22, 22, 22, 21, 21]
    model = tiny_model()
    before, _ = tree_logps(model, Tree(rows, prompts, min_saving=1))
    rows[1] = rows[1][:22] + [33] * len(rows[1][22:])
    after, _ = tree_logps(model, Tree(rows, prompts, min_saving=1))
    moved = (before - after).abs().amax(1) > 1e-12
    assert moved.tolist() == [False, True, False, False, False]


def test_the_plain_path_is_the_same_path():
    rows, prompts = random_rows(5)
    model = tiny_model()
    for a, b in zip(
        plain_logps(model, rows, prompts, 0.7, True, 5), reference(model, rows, prompts, 0.7), strict=True
    ):
        assert largest(a, b) < 1e-9


def test_trl_head_and_tree_live_in_one_model():
    rows, prompts = random_rows(6)
    model = tiny_model()
    add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
    logps, entropies = tree_logps(model, Tree(rows, prompts), 0.7, compute_entropy=True)
    for r, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        labels = torch.tensor([[-100] * prompt + row[prompt:]])
        stock = model(torch.tensor([row]), labels=labels, fused_lm_head=True)
        # TRL's head is float32
        assert largest(stock.log_probs[0, prompt - 1 :], logps[r, : len(row) - prompt]) < 1e-5
        assert largest(stock.entropy[0, prompt - 1 :], entropies[r, : len(row) - prompt]) < 1e-5


def test_without_a_plan_the_model_is_the_ordinary_one():
    model, stock = tiny_model(), tiny_model()
    stock.set_attn_implementation("sdpa")
    ids = torch.randint(0, VOCAB, (3, 12))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    tree_logps(model, Tree([[1, 2, 3]], [1]))
    logits, stock_logits = model(ids, attention_mask=mask).logits, stock(ids, attention_mask=mask).logits
    assert largest(logits[mask.bool()], stock_logits[mask.bool()]) < 1e-9


def test_the_table_of_logits_never_exists_whole():
    rows, prompts = random_rows(2)
    tree, chunk, kept = Tree(rows, prompts), 4, []
    assert len(tree.labels_N) > 5 * chunk
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        tree_logps(tiny_model(), tree, compute_entropy=True, chunk=chunk)
    tables = [shape for shape in kept if shape[-1] == VOCAB and len(shape) == 2 and shape[0] != 32]
    assert sum(shape.numel() for shape in tables) <= chunk * VOCAB


def test_calls_grow_with_the_depth_and_not_with_the_leaves():
    def calls(generations):
        rows = [[1] * 60 + [2 + q] * 9 + [10 + g] * 20 for q in range(3) for g in range(generations)]
        plan = Plan(Tree(rows, [69] * len(rows), min_saving=1))
        return len(plan.own), len(plan.above)

    assert calls(2) == calls(4) == calls(32) == (3, 2)


def test_bfloat16_errs_no_more_than_rows_do():
    rows, prompts = random_rows(0, histories=6)
    exact, _ = reference(tiny_model(torch.float32), rows, prompts)
    model = tiny_model(torch.bfloat16)
    shared, _ = tree_logps(model, Tree(rows, prompts))
    alone, _ = plain_logps(model, rows, prompts)
    assert shared.dtype == torch.float32
    assert (shared - exact).abs().mean() < 1.1 * (alone - exact).abs().mean()


def test_autocast():
    rows, prompts = random_rows(0)
    model = tiny_model(torch.float32)
    exact, _ = reference(model, rows, prompts)
    with torch.autocast("cpu", torch.bfloat16):
        shared, _ = tree_logps(model, Tree(rows, prompts))
        alone, _ = plain_logps(model, rows, prompts)
    gradients(model, shared)
    assert (shared - exact).abs().mean() < 1.2 * (alone - exact).abs().mean()


def test_a_row_longer_than_the_model_is_refused():
    with pytest.raises(ModelError, match="row of 9 tokens .* 8 positions"):
        tree_logps(tiny_model(max_position_embeddings=8), Tree([[1] * 9], [3]))


def test_numbers_that_are_none_are_refused():
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"row 0 \(and 1 more\) are NaN"):
        tree_logps(model, Tree([[1, 2, 3], [1, 2, 4]], [1, 1]))


def test_the_head_is_itself_again_after_an_error():
    model = tiny_model()
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(ModelError):
        broken = copy.deepcopy(model)
        broken.lm_head.weight.data.fill_(torch.nan)
        tree_logps(broken, Tree([[1, 2, 3]], [1]))
    assert broken(ids).logits.shape == model(ids).logits.shape == (1, 3, VOCAB)


def test_the_budget_cuts_between_questions_first():
    # 100 + 3 * (40 + 40) = 340 tokens
    rows = [[1] * 100 + [2 + q] * 40 + [10 * q + g] * 10 for g in range(4) for q in range(3)]
    prompts = [140] * len(rows)
    question = [[r for r in range(len(rows)) if rows[r][100] == 2 + q] for q in range(3)]
    assert split(rows, prompts, 340) == [sorted(sum(question, []))]
    assert split(rows, prompts, 339) == [sorted(question[0] + question[1]), question[2]]
    assert split(rows, prompts, 180) == question
    assert [len(group) for group in split(rows, prompts, 170)] == [3, 1, 3, 1, 3, 1]
    assert [len(group) for group in split(rows, prompts, 150)] == [1] * 12
    for budget in (340, 339, 260, 180, 170, 150):
        groups = split(rows, prompts, budget)
        assert sorted(sum(groups, [])) == list(range(len(rows)))
        assert all(
            len(Tree([rows[r] for r in group], [140] * len(group)).tokens_T) <= budget for group in groups
        )
    with pytest.raises(RecipeError, match="max_tree_tokens is 149, but one row .* 150 tokens"):
        split(rows, prompts, 149)
