"""One call attends span by span: the same as each span alone, forward and backward, whichever kernel runs it."""

import pytest
import torch
from tiny_tree import random_rows, tiny_model

from rft.errors import ModelError
from rft.prefix_tree.kernels import DenseCall, VarlenCall, check
from rft.prefix_tree.layout import Tree
from rft.prefix_tree.logprobs import plain_logps, tree_logps

SPANS = {
    "one": ([(2, 9)], [(1, 5)]),
    "equal and adjacent": ([(0, 4), (4, 8), (8, 12)], [(3, 5), (5, 7), (7, 9)]),
    "unequal and apart": ([(0, 1), (3, 9), (10, 12)], [(1, 6), (6, 7), (9, 12)]),
}


def attention(q_LHD, k_SKD, v_SKD, causal):
    """Outputs and log-sum-exps of one span, by the definition."""
    groups = q_LHD.shape[1] // k_SKD.shape[1]
    k, v = (x.repeat_interleave(groups, 1) for x in (k_SKD, v_SKD))
    scores = torch.einsum("lhd,shd->hls", q_LHD, k) * 0.3
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
    return torch.einsum("hls,shd->lhd", scores.softmax(-1), v), scores.logsumexp(-1).T


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("spans", SPANS)
def test_a_call_is_its_spans_alone(spans, causal):
    queries, keys = SPANS[spans]
    keys = queries if causal else keys
    torch.manual_seed(0)
    q, k, v = (torch.randn(12, heads, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
    alone = [attention(q[a:b], k[c:d], v[c:d], causal) for (a, b), (c, d) in zip(queries, keys, strict=True)]
    out, lse = (torch.cat(parts) for parts in zip(*alone, strict=True))
    dout = torch.randn_like(out)
    gradients = torch.autograd.grad(out, (q, k, v), dout)

    call = DenseCall(queries, keys, causal, q.device)
    operands = q[call.query_rows].detach(), k[call.key_rows].detach(), v[call.key_rows].detach()
    for mine, theirs in zip(call.forward(*operands, 0.3), (out, lse), strict=True):
        assert mine.shape == theirs.shape and (mine - theirs).abs().max() < 1e-12
    shares = call.backward(dout, *operands, out.detach(), lse.detach(), 0.3)
    for share, gradient, rows in zip(shares, gradients, (call.query_rows, call.key_rows, call.key_rows), strict=True):
        assert (share - gradient[rows]).abs().max() < 1e-12


def test_the_variable_length_kernels_take_what_we_give_them():
    """On the meta device, where PyTorch checks arguments and shapes of its CUDA kernels without one."""
    queries, keys = SPANS["unequal and apart"]
    call = VarlenCall(queries, keys, False, torch.device("meta"))
    q, k = torch.empty(9, 4, 16, dtype=torch.bfloat16, device="meta"), torch.empty(9, 2, 16, dtype=torch.bfloat16, device="meta")
    out, lse = call.forward(q, k, k, 0.3)
    assert out.shape == q.shape and lse.shape == (9, 4) and lse.dtype == torch.float32
    assert [x.shape for x in call.backward(out, q, k, k, out, lse, 0.3)] == [q.shape, k.shape, k.shape]


def test_offsets_of_the_variable_length_kernels():
    call = VarlenCall(*SPANS["unequal and apart"], False, torch.device("cpu"))
    (cu_q, max_q, cu_k, max_k) = call.lengths
    assert cu_q.tolist() == [0, 1, 7, 9] and max_q == 6 and cu_k.tolist() == [0, 5, 6, 9] and max_k == 5


def test_devices_without_a_kernel_are_refused():
    with pytest.raises(ModelError, match="not meta"):
        check(torch.empty(1, device="meta"))


@pytest.mark.gpu
def test_cuda_errs_no_more_than_rows_do():
    rows, prompts = random_rows(0, histories=6)
    model = tiny_model(torch.float32, head_dim=16).cuda()
    exact, _ = plain_logps(model, rows, prompts)
    model = model.bfloat16()
    shared, _ = tree_logps(model, Tree(rows, prompts, min_saving=1, device="cuda"))
    shared.sum().backward()
    alone, _ = plain_logps(model, rows, prompts)
    assert (shared - exact).abs().mean() < 1.1 * (alone - exact).abs().mean()
