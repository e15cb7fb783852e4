"""When cuDNN attends a long span: the measurement, the choice, and what happens if cuDNN fails."""

import logging
import math

import emulated_kernels
import pytest
import torch

from rft.errors import ModelError
from rft.prefix_tree import cudnn, kernels

DEVICE = torch.device("cpu")


@pytest.fixture
def ran(monkeypatch):
    with emulated_kernels.on_cpu(monkeypatch) as ran:
        monkeypatch.delenv(cudnn.CHOICE)
        monkeypatch.setattr(cudnn, "LEAST", 2)
        monkeypatch.setattr(cudnn, "CHECKED", 33)
        monkeypatch.setattr(cudnn, "TIMED", 17)
        monkeypatch.setattr(cudnn, "_given_up", [])
        cudnn._measured_least.cache_clear()
        yield ran
        cudnn._measured_least.cache_clear()


def attended(tokens=12):
    """Forward and backward of one span over itself, causal."""
    torch.manual_seed(0)
    q, k, v, dout = (torch.randn(tokens, heads, 16).bfloat16() for heads in (4, 2, 2, 4))
    call = kernels.VarlenCall([(0, tokens)], [(0, tokens)], True, DEVICE)
    out, lse = call.forward(q, k, v, 0.3)
    return out, lse, *call.backward(dout, q, k, v, out, lse, 0.3)


def measured(**changes):
    # per pair cuDNN saves 1 ns; a new length costs 0.016 s
    figures = {"flash_error": 0.003, "error": 0.003, "pairs": 10**6}
    figures |= {"flash_seconds": 0.002, "seconds": 0.001, "first_seconds": 0.017}
    return cudnn.Measured(**figures | changes)


@pytest.mark.parametrize(
    "changes, least",
    [
        ({}, 10**6),  # 16 layers save 1 ns a pair: 10^6 pairs pay for 0.016 s
        ({"first_seconds": 0.001}, 0),
        ({"first_seconds": 0.0005}, 0),
        ({"seconds": 0.002}, math.inf),
        ({"seconds": 0.003}, math.inf),
        ({"error": 0.007}, math.inf),
        ({"error": math.nan}, math.inf),
    ],
)
def test_from_where_cudnn_pays(changes, least):
    assert measured(**changes).least_pairs() == pytest.approx(least)


def test_both_kernels_are_measured_on_the_same_operands(ran):
    figures = cudnn.measure(DEVICE, torch.bfloat16, torch.Size((4, 16)), 2, kernels.Flash.of_one_span)
    assert figures.pairs == 17 * 17 and min(figures.flash_seconds, figures.seconds) > 0
    assert 1e-4 < figures.error < 1e-2 and figures.error == pytest.approx(figures.flash_error, rel=0.1)
    assert ran["cudnn"] == ran["cudnn backward"] == ran["flash varlen"] == 5


@pytest.mark.parametrize("first, chosen", [(0.001, True), (10.0, False)])
def test_the_measurement_decides_once(ran, first, chosen, monkeypatch, caplog):
    calls = []
    monkeypatch.setattr(cudnn, "measure", lambda *args: calls.append(1) or measured(first_seconds=first))
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            attended()
    assert len(calls) == 1 and ran["cudnn"] == ran["cudnn backward"] == 2 * chosen
    assert "2.00 times as fast as FlashAttention" in caplog.text


@pytest.mark.parametrize("choice, kernel", [("cudnn", "cudnn"), ("flash", "flash varlen")])
def test_the_environment_chooses(ran, choice, kernel, monkeypatch):
    monkeypatch.setenv(cudnn.CHOICE, choice)
    attended()
    assert ran == {kernel: 1, f"{kernel} backward": 1}


def test_an_unknown_choice_is_refused(ran, monkeypatch):
    monkeypatch.setenv(cudnn.CHOICE, "cudn")
    with pytest.raises(ModelError, match="RFT_ATTENTION=cudn: expected flash or cudnn"):
        attended()


def test_pytorchs_own_switch_is_kept(ran):
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        attended()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
    assert "cudnn" not in ran


def test_the_random_state_is_left_as_it_was(ran):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    cudnn.least_pairs(torch.zeros(2, 4, 16).bfloat16(), torch.zeros(2, 2, 16), kernels.Flash.of_one_span)
    assert ran["cudnn"] and torch.rand(1) == expected


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("choice", ["", "cudnn"])
def test_a_failure_leaves_all_spans_to_flash_attention(ran, direction, choice, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise RuntimeError("cuDNN Frontend error: no engine\nmore")

    expected = attended_by_flash(monkeypatch)
    monkeypatch.setenv(cudnn.CHOICE, choice)
    monkeypatch.setattr(cudnn.LongSpan, direction, fails)
    for _ in range(2):
        assert all(torch.equal(x, y) for x, y in zip(attended(), expected, strict=True))
    assert caplog.text.count("since cuDNN failed (cuDNN Frontend error: no engine)") == 1


def attended_by_flash(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv(cudnn.CHOICE, "flash")
        return attended()


def test_out_of_memory_is_not_a_failure_of_cudnn(ran, monkeypatch):
    def fails(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setenv(cudnn.CHOICE, "cudnn")
    monkeypatch.setattr(cudnn.LongSpan, "forward", fails)
    with pytest.raises(torch.OutOfMemoryError):
        attended()
    assert not cudnn._given_up
