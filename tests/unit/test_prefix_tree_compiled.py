"""The functions of a decode step that CUDA runs as one kernel each: the same numbers compiled, in one graph,
and as they are if they cannot be compiled. With them, keys are attended in pieces."""

import logging

import emulated_cudnn
import emulated_graph
import emulated_kernels
import pytest
import torch
from tiny_families import farthest, model_of, prompts_of, seeded, trained

from rft.prefix_tree import compiled, cudnn, decode, forward
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import tree_logps
from rft.prefix_tree.sample import sample

R, S, K, G, D = 6, 10, 2, 4, 8


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


FUNCTIONS = {
    "merge": (decode.merge, ([randn(R * G, K, D), 2 * randn(R * G, K, D)], [randn(R * G, K)] * 2, G)),
    "rotated": (forward._rotated, (randn(R, S, D), randn(S, D), randn(R, 1, D), randn(R, 1, D), 1e-6)),
    "rotated without norms": (forward._rotated, (randn(R, S, D), None, randn(R, 1, D), randn(R, 1, D), 1e-6)),
    "gated": (forward._gated, (randn(R, 2 * D),)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_graph_and_the_same_numbers(name):
    function, arguments = FUNCTIONS[name]
    whole = torch.compile(function, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(whole(*arguments), function(*arguments), rtol=1e-13, atol=1e-13)


def test_merged_parts_are_attention_over_all_keys():
    q, k, v = randn(R * G, K, D), randn(20, K, D), randn(20, K, D)
    scores = torch.einsum("fkd,skd->fks", q, k)
    whole = torch.einsum("fks,skd->fkd", scores.softmax(-1), v)
    parts = [slice(0, 3), slice(3, 4), slice(4, 20)]
    outs = [torch.einsum("fks,skd->fkd", scores[:, :, part].softmax(-1), v[part]) for part in parts]
    found = decode.merge(outs, [scores[:, :, part].logsumexp(-1) for part in parts], G)
    expected = whole.unflatten(0, (R, G)).transpose(1, 2).flatten(1, 2)  # (R, g, K) to heads in groups
    assert found.shape == (R, K * G, D) and (found - expected).abs().max() < 1e-12


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch, caplog):
    def broken(function):
        raise RuntimeError("no compiler here\nat length")

    monkeypatch.setattr(compiled, "_refused", [])
    monkeypatch.setattr(compiled, "_whole", broken)
    function, arguments = FUNCTIONS["gated"]
    with caplog.at_level(logging.WARNING):
        found = [compiled.compiled(function)(*arguments) for _ in range(3)]
    assert all(torch.equal(x, function(*arguments)) for x in found)
    assert [r.message for r in caplog.records] == [
        "decoding runs in more kernels, slower: torch.compile failed (no compiler here)"
    ]
    assert not compiled.compiles(torch.device("cuda"), 36, 512)


def test_out_of_memory_is_not_a_failure_of_the_compiler(monkeypatch):
    def full(function):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(compiled, "_refused", [])
    monkeypatch.setattr(compiled, "_whole", full)
    function, arguments = FUNCTIONS["gated"]
    with pytest.raises(torch.OutOfMemoryError):
        compiled.compiled(function)(*arguments)
    assert not compiled._refused


@pytest.mark.parametrize(
    "device, layers, tokens, expected",
    [("cuda", 36, 512, True), ("cuda", 30, 64, False), ("cpu", 36, 2048, False)],
)
def test_short_rollouts_are_not_worth_it(device, layers, tokens, expected):
    assert compiled.compiles(torch.device(device), layers, tokens) == expected


@pytest.fixture
def pieces(monkeypatch):
    """Every rollout is compiled, and small nodes are attended in pieces; yields the lengths of the pieces."""
    for module, name, value in (
        (compiled, "PAYS", 0),
        (cudnn, "PIECES", 4),
        (cudnn, "PIECE_STEP", 3),
        (decode, "FEW", 2),
        (decode, "LONG", 30),
        (decode, "PIECE", 2),
    ):
        monkeypatch.setattr(module, name, value)
    cut = []
    original = decode.Part.cut

    def spy(part, by_cudnn):
        original(part, by_cudnn)
        cut.append((part.by_cudnn, part.pieces, [end - start for start, end in part.keys]))

    monkeypatch.setattr(decode.Part, "cut", spy)
    return cut


def only_one(original):
    def operands(q, k, v):
        emulated_kernels.require(len(q) == 1, "no batches today")
        original(q, k, v)

    return operands


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rollouts_in_pieces_are_the_trainers(dtype, fails, pieces, monkeypatch):
    """A history of 40 tokens is 4 pieces of 9 and a rest of 4; three questions are cut alike. In bf16 both
    are compared with the same weights in float64."""
    model, prompts = model_of("qwen3", dtype), prompts_of(generations=6)
    monkeypatch.setattr(cudnn, "_given_up", [])
    with emulated_kernels.on_cpu(monkeypatch) as ran, emulated_graph.on_cpu(monkeypatch):
        monkeypatch.setenv(cudnn.CHOICE, "cudnn" if dtype == torch.bfloat16 else "flash")
        if fails:
            monkeypatch.setattr(emulated_cudnn, "operands", only_one(emulated_cudnn.operands))
        completions, logps = sample(
            model, prompts, max_new_tokens=30, eos_ids=[1, 2, 3, 4, 5, 6], generator=seeded()
        )
        of_trainer = trained(model, prompts, completions)
    count, sizes = next((count, sizes) for _, count, sizes in pieces if count > 1)
    assert len(sizes) == 3 * count and max(sizes[::3]) - min(sizes[::3]) <= 1  # of the first question
    if dtype == torch.float32:
        assert farthest(logps, of_trainer) < 1e-5
        return
    by_cudnn = [sizes for asked, _, sizes in pieces if asked]
    assert by_cudnn and all(sizes == [40] for sizes in by_cudnn)
    assert bool(cudnn._given_up) == fails and (fails or ran["cudnn"] > 10)
    exact = trained(model.double(), prompts, completions)
    assert error(table(logps, exact), exact) < 1.3 * error(of_trainer, exact)


def table(logps, like):
    sampled = torch.zeros_like(like)
    for row, mine in enumerate(logps):
        sampled[row, : len(mine)] = torch.tensor(mine)
    return sampled


def error(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


@pytest.mark.gpu
def test_a_compiled_rollout_on_a_gpu(monkeypatch):
    """With its compiler and kernels, in bf16, against the same weights in float32."""
    monkeypatch.setattr(compiled, "PAYS", 0)
    model = model_of("qwen3", torch.bfloat16, head_dim=64, max_position_embeddings=4096).cuda()
    prompts = prompts_of(questions=4, generations=8, history=2100)
    completions, logps = sample(model, prompts, max_new_tokens=30, eos_ids=[1, 2, 3])
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    tree = Tree(rows, [len(prompt) for prompt in prompts], device="cuda")
    with torch.no_grad():
        of_trainer = tree_logps(model, tree)[0]
        exact = tree_logps(model.float(), tree)[0]
    assert not compiled._refused
    assert error(table(logps, exact), exact) < 1.3 * error(of_trainer, exact)
