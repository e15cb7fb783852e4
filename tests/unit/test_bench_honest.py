"""What keeps benchmarks honest: arithmetic that is right, turns, medians, noise that is called noise, parts
that say why not."""

import contextlib
import time
from dataclasses import replace
from functools import partial

import psutil
import pytest
import torch

from rft.bench import arithmetic, batch, device, kernels, longest, parts, policy, rollout, stopwatch, table
from rft.bench.setting import MODELS, Setting
from rft.prefix_tree import cudnn
from rft.prefix_tree.layout import Tree

TOY = Setting("toy", prompt_tokens=96, questions=2, question_tokens=40, generations=3, completion_tokens=8)


def test_the_models_have_the_sizes_they_are_named_for():
    setting = Setting("qwen3-4b", dtype="bfloat16")
    assert 3.9e9 < arithmetic.weight_bytes(setting) / 2 < 4.1e9
    assert arithmetic.token_bytes(setting) == 147456  # 36 layers x 8 heads x 128 x keys and values x 2 bytes


@pytest.mark.parametrize("name", MODELS)
def test_weight_bytes_are_the_models(name):
    setting = Setting(name, "meta")
    model = policy.policy(setting)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert arithmetic.weight_bytes(setting) == 4 * matrices
    assert policy.held_bytes(model) == 8 * sum(p.numel() for p in model.parameters())


def test_operations_without_the_batch_are_those_of_its_tree():
    rows, prompts = batch.questions(TOY)
    assert arithmetic.questions_flops(TOY) == arithmetic.update_flops(TOY, Tree(rows, prompts, min_saving=1))
    assert TOY.tokens == len(Tree(rows, prompts, min_saving=1).tokens_T)


def test_operations_of_rows_are_those_of_trees_of_one_row():
    rows, prompts = batch.questions(TOY)
    alone = sum(
        arithmetic.update_flops(TOY, Tree([row], [prompt])) for row, prompt in zip(rows, prompts, strict=True)
    )
    assert arithmetic.rows_flops(TOY, rows, 8 * len(rows)) == pytest.approx(alone)


def test_the_ceiling_of_a_rollout():
    rows, lengths = batch.questions(TOY)
    tree = Tree([row[:n] for row, n in zip(rows, lengths, strict=True)])
    assert 1 < arithmetic.rollout_ceiling(TOY, tree, 1) < 6
    # a prefill, nearly: tokens alone
    assert arithmetic.rollout_ceiling(replace(TOY, completion_tokens=1), tree, 1) > 3.9
    long = replace(TOY, completion_tokens=500)
    weights_alone = arithmetic.rollout_ceiling(long, tree, 6)  # six times the weights are read
    assert arithmetic.rollout_ceiling(long, tree, 1) < weights_alone < 6


def test_an_adapter_samples_in_half_precision():
    setting = replace(TOY, dtype="bfloat16", lora=True)
    figures = rollout.rollout(setting, tree_only=True, repeats=1)
    assert figures["tree_token_operations"] > 20 and figures["max_logprob_error"] < 0.1


@pytest.mark.parametrize("keep", [False, True])
def test_kept_attention_is_counted(keep):
    setting = replace(TOY, prompt_tokens=4096, checkpointing=True, keep_attention=keep)
    model = policy.policy(replace(setting, device="meta"))
    without = policy.estimated_bytes(replace(setting, keep_attention=False), model, 5000, 16)
    assert (policy.estimated_bytes(setting, model, 5000, 16) > without) == keep
    short = replace(setting, prompt_tokens=4095)  # what is short is never kept
    assert policy.estimated_bytes(short, model, 5000, 16) == without


@pytest.mark.parametrize(("ratio", "counts"), [(12.5, True), (12.51, False), (19.9, False)])
def test_a_speedup_above_its_ceiling_is_noise(ratio, counts):
    figures = {"ceiling": 12.5, "plain_seconds": ratio, "tree_seconds": 1.0}
    arithmetic.speedup(figures, "speedup", "plain")
    assert figures["speedup"] == (ratio if counts else None)
    said = " ".join(table.sayings(figures))
    assert (f"{ratio:.4g}  x faster" in said) == counts
    assert (f"noise  {ratio:.3g} x faster" in said and "above the ceiling of 12.5" in said) != counts


def test_works_take_turns_and_medians_count():
    order = []
    times, others = stopwatch.in_turns(
        "cpu", {name: partial(order.append, name) for name in ("tree", "plain")}, 3
    )
    assert order == ["tree", "plain"] * 3
    times["plain"].seconds[:] = [1.0, 9.0, 2.0]
    times["plain"].cpu_seconds[:] = [0.5, 0.25, 7.0]
    assert times["plain"].figures("plain", "cpu", factor=2.0) == {
        "plain_seconds": 4.0,
        "plain_cpu_seconds": 1.0,
        "plain_repeats": [2.0, 18.0, 4.0],
    }
    assert 0 <= others["others_cpu_share"] <= 1


@pytest.mark.parametrize("share", [0.01, 0.4])
def test_other_work_on_the_machine_is_said(share):
    said = list(table.sayings({"others_cpu_share": share}))
    assert said == (
        []
        if share < 0.05
        else ["       40%  of the machine's CPU time went to other work: compare CPU times"]
    )


def test_others_are_everybody_but_this_process():
    def busy():
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass

    times, others = stopwatch.in_turns("cpu", {"work": busy}, 1)
    ours = 0.3 / times["work"].seconds[0] / psutil.cpu_count()
    assert others["others_cpu_share"] <= 1 - ours + 0.1  # the machine counts in hundredths of a second


def test_rows_for_baselines_are_from_both_ends():
    assert (
        batch.some(32, 4) == [0, 1, 30, 31] and batch.some(32, 3) == [0, 1, 31] and batch.some(32, 1) == [0]
    )
    assert batch.some(3, 4) == batch.some(3, 0) == [0, 1, 2]


def test_adapters_run_under_autocast_without_casts_of_their_input():
    setting = replace(TOY, dtype="bfloat16", lora=True)
    model = policy.policy(setting)
    adapted = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert adapted and not any(module.cast_input_dtype_enabled for module in adapted)
    kinds = {p.dtype for p in model.parameters() if p.requires_grad}
    assert kinds == {torch.float32} and model.dtype == torch.bfloat16
    with policy.precision(setting):
        assert torch.is_autocast_enabled("cpu")
        assert model(torch.tensor([[1, 2, 3]])).logits.dtype == torch.bfloat16


@pytest.fixture
def job(tmp_path):
    return lambda **fields: parts.Job(
        **{"scale": parts.TOY, "out": tmp_path, "seconds": 60.0, "done": {}, "say": print} | fields
    )


@pytest.mark.parametrize("part", ["kernels", "update", "rollout", "longest"])
def test_a_card_too_small_skips_a_part_by_name(part, job, monkeypatch):
    monkeypatch.setattr(device, "free_bytes", lambda on: 1)
    with pytest.raises(parts.Skipped, match="(needs about|by estimate)"):
        parts.PARTS[part][1](job())


@pytest.mark.parametrize("part", ["update", "rollout", "longest"])
def test_a_part_that_takes_longer_than_its_share_is_skipped(part, job):
    slow = {"card": {"product_flops_per_second": 1.0}}
    with pytest.raises(parts.Skipped, match="takes about"):
        parts.PARTS[part][1](job(done=slow))


def test_the_longest_history_is_the_longest_that_fits(job, monkeypatch):
    setting = replace(parts.TOY.setting, lora=True)
    short, long = (longest.needed_bytes(replace(setting, prompt_tokens=n)) for n in (96, 192))
    assert short < long
    monkeypatch.setattr(device, "free_bytes", lambda on: long - 1)
    found = longest.longest(setting, (96, 192), float("inf"), 60.0)
    assert [entry["prompt_tokens"] for entry in found["lengths"]] == [192, 96] and found[
        "prompt_tokens"
    ] == 96
    assert (
        "are free" in found["lengths"][0]["why_not"]
        and found["estimated_bytes"] == short
        and found["seconds"] > 0
    )


def test_a_history_that_runs_out_of_memory_gives_way_to_a_shorter_one(monkeypatch):
    def runs_out(setting):
        if setting.prompt_tokens > 96:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")
        return {"seconds": 1.0, "bytes": 5, "flops_per_second": 1.0}

    monkeypatch.setattr(longest, "measured", runs_out)
    found = longest.longest(replace(parts.TOY.setting, lora=True), (96, 192), float("inf"), 60.0)
    assert found["lengths"][0]["why_not"] == "OutOfMemoryError: CUDA out of memory."
    assert found["prompt_tokens"] == 96 and found["bytes"] == 5


def test_memory_that_others_hold_is_said():
    gib = 2**30
    assert parts.others_note(80 * gib, gib // 2) == []
    assert "other processes use 30.0 of 80.0 GiB" in parts.others_note(80 * gib, 30 * gib)[0]


@pytest.mark.parametrize("version", [None, "2.8.3", "2.8.3.post1"])
def test_a_flash_attn_that_we_can_call_needs_no_word(version):
    assert parts.flash_attn_note(version) == []


@pytest.mark.parametrize("version", ["2.6.3", "1.0"])
def test_a_flash_attn_of_the_wrong_version_is_said(version):
    assert parts.flash_attn_note(version)[0].startswith(f"flash-attn {version}: expected 2.")


SIZES = kernels.Sizes(long=64, short=32, heads=4, keys=2, head_size=16, head_sizes=(8, 24), rows=3)


def test_a_head_size_that_no_kernel_takes_is_a_line_and_the_others_go_on(monkeypatch):
    call = kernels.call

    def choosy(*args):
        one = call(*args)
        forward = one.forward

        def checked(q, *rest):
            if q.shape[-1] % 16:
                raise RuntimeError(f"head size {q.shape[-1]}: this kernel takes multiples of 16\nand more")
            return forward(q, *rest)

        one.forward = checked
        return one

    monkeypatch.setattr(kernels, "call", choosy)
    found = kernels.kernels("cpu", SIZES)
    refused = [case for case in found["cases"] if "refused" in case]
    assert {case["case"] for case in refused} == {"head size 8", "head size 24"}
    assert refused[0]["refused"] == "RuntimeError: head size 8: this kernel takes multiples of 16"
    assert found["wrong"] == 0 and all(case["right"] for case in found["cases"] if "refused" not in case)
    assert any("head size 24, bfloat16" in said for _, said in table.SUMMARIES["kernels"](found, {}))


@pytest.mark.parametrize("wrong", ["out", "lse", "dk"])
def test_a_kernel_that_is_wrong_is_found(wrong, monkeypatch):
    class Wrong(kernels.call([(0, 1)], [(0, 1)], True, torch.device("cpu")).__class__):
        def forward(self, *args):
            out, lse = super().forward(*args)
            return out * (1.02 if wrong == "out" else 1), lse + 0.02 * (wrong == "lse")

        def backward(self, *args):
            dq, dk, dv = super().backward(*args)
            return dq, dk * (1.05 if wrong == "dk" else 1), dv

    monkeypatch.setattr(kernels, "call", Wrong)
    found = kernels.kernels("cpu", SIZES)
    assert found["wrong"] >= 6  # in every dtype
    assert any(figure == "WRONG" for figure, _ in table.SUMMARIES["kernels"](found, {}))


def test_cases_that_there_is_no_time_for_are_named():
    found = kernels.kernels("cpu", SIZES, fits=lambda: False)
    assert not found["cases"] and "a tree, float32: no time left" in found["skipped"]


def test_cudnn_is_called_as_its_operator_wants():
    """On the meta device, where PyTorch checks arguments and shapes of its CUDA kernels without one."""
    q, k = (torch.empty(n, heads, 16, dtype=torch.bfloat16, device="meta") for n, heads in ((40, 8), (24, 2)))
    span = cudnn.LongSpan(False)
    out, lse = span.forward(q, k, k, 0.2)
    assert out.shape == q.shape and lse.shape == (40, 8) and lse.dtype == torch.float32
    assert [x.shape for x in span.backward(out, q, k, k, out, lse, 0.2)] == [q.shape, k.shape, k.shape]


@pytest.mark.skipif(torch.cuda.is_available(), reason="they may be there")
def test_an_implementation_that_is_not_here_is_refused_and_leaves_nothing_active():
    from rft.bench import backends

    for name in backends.IMPLEMENTATIONS:
        with pytest.raises(Exception, match="."), backends._active(name):
            pass
    with contextlib.suppress(AttributeError):  # an older PyTorch
        assert torch.nn.attention.current_flash_attention_impl() is None
