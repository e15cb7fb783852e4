"""What `rft bench gpu` holds attention against on a card, run over the emulated kernels of CUDA here, and
over the kernels themselves with `pytest -m gpu`."""

import json
import math

import emulated_kernels
import pytest
import torch

from rft.bench import backends, kernels, table
from rft.bench.batch import questions
from rft.bench.exactness import exactness
from rft.bench.setting import Setting
from rft.prefix_tree import cudnn

SMALL = kernels.Sizes(long=192, short=48, heads=8, keys=2, head_size=16, head_sizes=(32,), rows=5)
LARGE = kernels.Sizes(
    long=32768, short=2048, heads=8, keys=2, head_size=128, head_sizes=(64, 96, 128, 256), rows=32
)
SETTING = Setting("toy", "cpu", "bfloat16", 96, 2, 40, 2, 16)
# an error this many times that of plain rows in the same dtype is noise: seeds give 0.89 to 1.06
AS_PLAIN = 1.25


@pytest.mark.parametrize("flash_attn", [False, True])
def test_every_case_is_right_over_cudas_kernels(flash_attn, monkeypatch):
    with emulated_kernels.on_cpu(monkeypatch, flash_attn) as ran:
        found = kernels.kernels("cpu", SMALL)
    assert [case for case in found["cases"] if not case.get("right")] == []
    assert sum(ran.values()) >= 2 * len(found["cases"])


@pytest.mark.parametrize("size", [20, 264])
def test_a_head_size_that_no_kernel_takes_is_refused_by_name(size, monkeypatch):
    with emulated_kernels.on_cpu(monkeypatch):
        found = kernels.kernels("cpu", kernels.Sizes(64, 32, 4, 2, 16, (size,), 3))
    refused = {(case["case"], case["dtype"]) for case in found["cases"] if "refused" in case}
    assert refused == {(f"head size {size}", "bfloat16"), (f"head size {size}", "float16")}
    assert found["wrong"] == 0


def test_a_backend_that_is_right_in_a_merge_is_timed(monkeypatch):
    with emulated_kernels.on_cpu(monkeypatch):
        found = backends.backends(SETTING)
    assert [entry["backend"] for entry in found["backends"]] == ["FlashAttention"]
    assert found["backends"][0]["right"] and found["backends"][0]["error"] < 0.01
    assert set(found["own_calls"]) == {"one_call_seconds", "apart_seconds"}


@pytest.mark.parametrize("pays, says", [(0.0, "spans of 0 query-key pairs"), (math.inf, "no span")])
def test_the_choice_of_cudnn_is_shown(pays, says, monkeypatch):
    monkeypatch.setattr(cudnn, "CHECKED", 33)
    monkeypatch.setattr(cudnn, "TIMED", 17)
    monkeypatch.setattr(cudnn.Measured, "least_pairs", lambda self: pays)
    with emulated_kernels.on_cpu(monkeypatch):
        choice = backends._cudnn_choice(SETTING)
    figures = json.loads(json.dumps({"backends": [], "cudnn": choice}, allow_nan=False))
    [(name, line)] = table.SUMMARIES["backends"](figures, {})
    assert name == "choice" and says in line and choice["pairs"] == 17 * 17


@pytest.mark.parametrize("options", [{}, {"lora": True, "checkpointing": True}], ids=["full", "lora"])
def test_bfloat16_errs_no_more_than_rows_do(options, monkeypatch):
    setting = Setting(**{**vars(SETTING), **options})
    with emulated_kernels.on_cpu(monkeypatch) as ran:
        found = exactness(setting, questions)
    assert ran and 0 < found["tree_error_to_float32"] < AS_PLAIN * found["plain_error_to_float32"]
    assert 0 < found["tree_grad_error_to_float32"] < AS_PLAIN * found["plain_grad_error_to_float32"]


@pytest.mark.gpu
def test_every_case_is_right_on_a_card():
    found = kernels.kernels("cuda", LARGE)
    assert [case for case in found["cases"] if not case.get("right")] == []


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"lora": True, "checkpointing": True}], ids=["full", "lora"])
def test_bfloat16_errs_no_more_than_rows_do_on_a_card(options):
    torch.cuda.init()
    found = exactness(Setting(**{**vars(SETTING), "device": "cuda", **options}), questions)
    assert 0 < found["tree_error_to_float32"] < AS_PLAIN * found["plain_error_to_float32"]
    assert 0 < found["tree_grad_error_to_float32"] < AS_PLAIN * found["plain_grad_error_to_float32"]
