"""`rft bench` measures real runs: its figures are there, agree with one another, and its paths with each
other."""

import argparse
import json

import pytest
import torch

from rft.bench import command, rollout
from rft.bench import update as update_module
from rft.errors import ModelError

SHAPE = (
    "--prompt-tokens 48 --questions 2 --question-tokens 20 --generations 3 --completion-tokens 5 --model toy"
)


def figures(tmp_path, words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    path = tmp_path / "out" / "figures.json"
    what, *options = words.split()
    assert command.run(parser.parse_args([what, *SHAPE.split(), *options, "--json", str(path)])) == 0
    return json.loads(path.read_text())


def assert_speedup(found, name, slow):
    """The ratio of the medians; above the ceiling it is noise, and no speedup."""
    ratio = found[slow] / found["tree_seconds"]
    assert (
        found[name] == ratio
        if ratio <= found["ceiling"]
        else (found[name] is None and found["noise"][name] == ratio)
    )


@pytest.mark.parametrize("options", ["", "--checkpointing --baseline-rows 0", "--lora"])
def test_update(options, tmp_path, capsys):
    found = figures(tmp_path, f"update {options}")
    assert found["token_ratio"] == 6 * 73 / (48 + 2 * (20 + 3 * 5))
    assert 1 < found["ceiling"] < found["token_ratio"]
    assert (
        found["max_logprob_error"] < 1e-5
        and found["short_max_logprob_error"] < 1e-5
        and found["max_grad_rel_error"] < 1e-4
    )
    assert_speedup(found, "speedup", "plain_seconds")
    assert_speedup(found, "speedup_over_trl", "trl_seconds")
    assert {
        "plain_peak_bytes",
        "tree_peak_bytes",
        "trl_peak_bytes",
        "update_estimated_bytes",
        "versions",
        "device",
    } <= found.keys()
    for path in ("tree", "plain", "trl"):
        times = found[f"{path}_repeats"]
        assert len(times) == 3 and found[f"{path}_seconds"] == pytest.approx(sorted(times)[1], abs=1e-5)
    assert "stock TRL" in (said := capsys.readouterr().out)
    extrapolated = "baseline-rows" not in options  # 4 of 6 rows
    assert found.get("baseline_extrapolated", "") == (
        "from 4 of 6 rows, by arithmetic" if extrapolated else ""
    )
    assert ("extrapolated" in said) == extrapolated


def test_memory_trajectories(tmp_path, capsys):
    found = figures(tmp_path, "memory --chunks 2 --memory-tokens 30")
    plain = 3 * (48 + 30) + 3 * (48 + 30 + 30) + 2 * 3 * (30 + 20 + 5)
    # a memory of 30 tokens is repeated: sharing it saves too little
    tree = 48 + 3 * 30 + 48 + 3 * 60 + 2 * 3 * (30 + 20 + 5)
    assert found["token_ratio"] == pytest.approx(plain / tree)
    assert found["max_logprob_error"] < 1e-5 and found["max_grad_rel_error"] < 1e-4
    assert_speedup(found, "speedup", "plain_seconds")
    assert "T=2 M=30" in capsys.readouterr().out and "trl_seconds" not in found


def test_rollout(tmp_path, capsys):
    found = figures(tmp_path, "rollout")
    assert found["max_logprob_error"] < 1e-4
    assert_speedup(found, "speedup", "stock_seconds")
    assert found["stock_micro_batch"] == 6 and "baseline_extrapolated" not in found
    assert found["tree_token_operations"] > 100
    assert {"stock_peak_bytes", "tree_peak_bytes", "tree_token_seconds", "tree_token_bytes"} <= found.keys()
    assert "transformers generate" in capsys.readouterr().out


def test_generate_is_given_the_rows_that_fit_and_scaled_to_all(tmp_path, monkeypatch, capsys):
    peak = rollout.device.peak
    monkeypatch.setattr(rollout.device, "peak", lambda on, work: (9, peak(on, work)[1]))
    monkeypatch.setattr(rollout.device, "free_bytes", lambda on: 30)
    found = figures(tmp_path, "rollout")
    assert found["stock_micro_batch"] == 2
    assert found["baseline_extrapolated"] == "from 2 of 6 rows at once, 3 times as long"
    assert "2 rows at a time; extrapolated from 2 of 6 rows at once" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["update", "rollout"])
def test_the_tree_alone(what, tmp_path):
    found = figures(tmp_path, f"{what} --tree-only --repeats 1")
    assert found["tree_seconds"] > 0 and not {"speedup", "plain_seconds", "stock_seconds"} & found.keys()


def test_the_figures_are_on_the_disk_before_the_float32_reference(tmp_path, monkeypatch):
    from rft.bench import exactness

    def runs_out(*args):
        raise torch.OutOfMemoryError("the reference")

    monkeypatch.setattr(exactness, "exactness", runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        figures(tmp_path, "update")
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["speedup_over_trl"] != 0


def test_baselines_give_way_where_there_is_no_time(monkeypatch):
    from rft.bench.batch import questions
    from rft.bench.setting import Setting

    setting = Setting(
        "toy", prompt_tokens=48, questions=2, question_tokens=20, generations=3, completion_tokens=5
    )
    found = update_module.update(setting, questions(setting), seconds=0.0)
    assert "tree_seconds" in found and not {"speedup", "speedup_over_trl"} & found.keys()
    assert [line.split(":")[0] for line in found["skipped"]] == ["plain", "trl"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a device is there")
def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="sees no CUDA device"):
        figures(tmp_path, "update --device cuda")


def test_fewer_repeats_than_a_comparison_needs(tmp_path):
    with pytest.raises(ModelError, match="--repeats 2: a comparison needs at least 3"):
        figures(tmp_path, "update --repeats 2")
    with pytest.raises(ModelError, match="--keep-attention: without --checkpointing everything is kept"):
        figures(tmp_path, "update --keep-attention")
