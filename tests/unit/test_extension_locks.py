"""A lock that a killed compilation left behind is named before DeepSpeed waits for it."""

import logging
import os

import pytest

from rft.train.runner import run_main


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """Extensions of which two are locked: one since 1970, one since now."""
    for name in ("cpu_adam", "shm_comm", "utils"):
        (tmp_path / name).mkdir()
    for name in ("cpu_adam", "utils"):
        (tmp_path / name / "lock").touch()
    os.utime(tmp_path / "cpu_adam/lock", (0, 0))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    return tmp_path


def said(caplog):
    """What a training script logs before it trains."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert run_main(lambda argv: None, []) == 0
    return [record.getMessage() for record in caplog.records]


def test_a_lock_that_was_left_behind_is_named_once(builds, caplog):
    (line,) = said(caplog)  # the young lock may be that of this run
    assert line.startswith(f"DeepSpeed waits as long as {builds / 'cpu_adam/lock'} exists")
    assert line.endswith("if no other run is starting, delete the file")
    (builds / "cpu_adam/lock").unlink()
    assert said(caplog) == []


def test_other_processes_and_layouts_say_nothing(builds, caplog, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert said(caplog) == []
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    assert said(caplog) == []


def test_locks_are_looked_for_where_pytorch_compiles(tmp_path, caplog, monkeypatch):
    from torch.utils import cpp_extension

    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setattr(cpp_extension, "get_default_build_root", lambda: str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    lock = os.path.join(cpp_extension._get_build_directory("cpu_adam", verbose=False), "lock")
    open(lock, "x").close()
    os.utime(lock, (0, 0))
    (line,) = said(caplog)
    assert lock in line
