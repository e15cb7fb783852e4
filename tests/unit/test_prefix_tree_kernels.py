"""One call attends span by span: the same as each span alone, forward and backward, whichever kernel runs
it."""

import sys
from types import ModuleType

import pytest
import torch

from rft.errors import ModelError
from rft.prefix_tree.kernels import DenseCall, VarlenCall, check, efficient_forward, flash_attn

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
    for share, gradient, rows in zip(
        shares, gradients, (call.query_rows, call.key_rows, call.key_rows), strict=True
    ):
        assert (share - gradient[rows]).abs().max() < 1e-12


def test_the_variable_length_kernels_take_what_we_give_them():
    """On the meta device, where PyTorch checks arguments and shapes of its CUDA kernels without one."""
    queries, keys = SPANS["unequal and apart"]
    call = VarlenCall(queries, keys, False, torch.device("meta"))
    q, k = (
        torch.empty(9, 4, 16, dtype=torch.bfloat16, device="meta"),
        torch.empty(9, 2, 16, dtype=torch.bfloat16, device="meta"),
    )
    out, lse = call.forward(q, k, k, 0.3)
    assert out.shape == q.shape and lse.shape == (9, 4) and lse.dtype == torch.float32
    assert [x.shape for x in call.backward(out, q, k, k, out, lse, 0.3)] == [q.shape, k.shape, k.shape]


def test_the_memory_efficient_kernel_takes_what_we_give_it():
    """Its forward, likewise; PyTorch 2.13's own check of the backward forgets an argument."""
    q, k = torch.empty(1, 9, 4, 16, device="meta"), torch.empty(1, 9, 2, 16, device="meta")
    for queries in ("unequal and apart", "one"):
        call = VarlenCall(*SPANS[queries], False, torch.device("meta"))
        out, lse = efficient_forward(q, k, k, call.lengths, 0.3, False)
        assert (
            out.shape == q.shape
            and lse.shape == (call.lse_shape[0], 4, call.lse_shape[1])
            and lse.dtype == torch.float32
        )


def test_offsets_of_the_variable_length_kernels():
    call = VarlenCall(*SPANS["unequal and apart"], False, torch.device("cpu"))
    cu_q, max_q, cu_k, max_k = call.lengths
    assert cu_q.tolist() == [0, 1, 7, 9] and max_q == 6 and cu_k.tolist() == [0, 5, 6, 9] and max_k == 5


def test_devices_without_a_kernel_are_refused():
    with pytest.raises(ModelError, match="not meta"):
        check(torch.empty(1, device="meta"))


INSTALLED = {
    "nothing": ({}, False),
    "FlashAttention 4": ({"flash_attn": {}}, False),
    "2.7": ({"flash_attn": {"__version__": "2.7.4.post1"}, "flash_attn.flash_attn_interface": {}}, False),
    "2.8": ({"flash_attn": {"__version__": "2.8.3"}, "flash_attn.flash_attn_interface": {}}, True),
}


@pytest.mark.parametrize("installed", INSTALLED)
def test_which_flash_attn_is_taken(installed, monkeypatch, caplog):
    modules, taken = INSTALLED[installed]
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents | {"__path__": []})
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            sys.modules["flash_attn"].flash_attn_interface = module
    assert (flash_attn.__wrapped__() is not None) == taken
    assert ("flash-attn 2.7.4.post1 is older than 2.8" in caplog.text) == (installed == "2.7")
