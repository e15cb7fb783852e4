"""Runs that used the same dataset or checkpoint name one and the same artifact."""

import json
from types import SimpleNamespace

from rft.runs import lineage


def test_the_same_content_is_the_same_artifact(tmp_path):
    assert (
        lineage.dataset("ab" * 32).digest
        == lineage.dataset("ab" * 32).digest
        != lineage.dataset("cd" * 32).digest
    )
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "config.json").write_text("{}")
    one = lineage.checkpoint(tmp_path / "checkpoint-2", "f00d", {"step": 2})
    again = lineage.checkpoint(tmp_path / "checkpoint-4" / ".." / "checkpoint-2", "f00d", {})
    assert one.name.startswith("checkpoint-f00d") and one.digest == again.digest
    assert one.digest != lineage.checkpoint(tmp_path / "checkpoint-4", "f00d", {}).digest


def test_a_checkpoint_knows_the_run_that_trained_it(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    assert lineage.trained_in(tmp_path / "checkpoint-2") is None
    (tmp_path / "wandb.json").write_text(json.dumps({"id": "f00d", "step": 2}))
    assert lineage.trained_in(tmp_path / "checkpoint-2") == lineage.trained_in(tmp_path) == "f00d"


def test_inputs_are_named_online_only():
    named: list[object] = []
    artifact = lineage.dataset("ab" * 32)
    lineage.use(SimpleNamespace(offline=False, use_artifact=named.append), artifact)
    lineage.use(SimpleNamespace(offline=True, use_artifact=named.append), artifact)
    assert named == [artifact]
