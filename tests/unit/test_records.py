"""Records: written and read by one model, broken ones named by place and key, their schemas current."""

import json
from types import SimpleNamespace

import pytest
from result_rows import result_row, summary_of

from rft.errors import DataError
from rft.records.base import read_json
from rft.records.schema import SCHEMAS, schema
from rft.records.summary import read_summary
from rft.records.training import METRICS, Manifest, MetricsLine, Provenance, read_metrics, read_provenance
from rft.runs.tracking import MetricsFile


def test_the_schemas_in_the_docs_are_current(repository):
    folder = repository / "docs" / "schema"
    assert {path.name for path in folder.iterdir()} == {f"{name}.schema.json" for name in SCHEMAS}
    for name, model in SCHEMAS.items():
        current = (folder / f"{name}.schema.json").read_text() == schema(model)
        assert current, "run `python -m rft.records.schema docs/schema`; raise VERSION if a key was renamed"


def test_a_schema_names_every_key_that_is_written():
    written = {"results": result_row(0, 1), "summary": summary_of([result_row(0, 1)])}
    for name, record in written.items():
        known = json.loads(schema(SCHEMAS[name]))
        assert set(known["required"]) <= set(record.dump()) <= set(known["properties"])


def test_a_summary_comes_back_as_it_was(tmp_path):
    summary = summary_of([result_row(i, i % 2, str(i)) for i in range(6)])
    (tmp_path / "summary.json").write_text(summary.to_text())
    assert read_summary(tmp_path) == summary
    assert read_summary(tmp_path).to_text() == summary.to_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 2, written by a newer rft; this one reads version 1; update rft"),
        (
            {"accuracy": "high"},
            "key accuracy: expected a valid number, found 'high'; run the same evaluation",
        ),
        ({"by": {"who": {"self": {"n": 3}}}}, "key by.who.self.accuracy is missing; run the same evaluation"),
    ],
)
def test_a_summary_that_is_wrong_is_named_by_its_key(tmp_path, change, said):
    summary = summary_of([result_row(0, 1)]).dump() | change
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match=f"summary.json: {said}"):
        read_summary(tmp_path)


def test_an_old_summary_with_another_key_says_who_reads_it(tmp_path):
    summary = summary_of([result_row(0, 1)]).dump()
    summary["sha256"] = summary.pop("data_sha256")
    del summary["version"]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(
        DataError, match=r"key data_sha256 is missing; .* \(it has no version, so an rft of 2026-11-27"
    ):
        read_summary(tmp_path)


def test_metrics_are_numbers_by_step(tmp_path):
    path = tmp_path / METRICS
    assert read_metrics(path) == []
    lines = ['{"step": 1, "time": 2.5, "epoch": 0.5, "reward": NaN, "loss": 0.25}\n', '{"step": 2, "ti']
    path.write_text("".join(lines))  # killed while it wrote the second line
    [line] = read_metrics(path)
    assert (line.step, line.time, line.epoch, line.values["loss"]) == (1, 2.5, 0.5, 0.25)
    assert line.to_line() == lines[0]
    path.write_text(lines[0] + '{"step": 2, "time": 3, "loss": "low"}\n' + lines[0])
    with pytest.raises(
        DataError, match=r"metrics.jsonl: line 2: key loss: expected a valid number, found 'low'"
    ):
        read_metrics(path)
    path.write_text(lines[1] + "\n" + lines[0])
    with pytest.raises(DataError, match="metrics.jsonl: line 1: broken JSON .*; remove this line"):
        read_metrics(path)


def test_a_value_that_is_no_number_does_not_end_a_training(tmp_path, caplog):
    file, args = MetricsFile(), SimpleNamespace(output_dir=str(tmp_path))
    state = SimpleNamespace(is_world_process_zero=True, global_step=0)
    file.on_train_begin(args, state, None)
    for step in (1, 2):
        state.global_step = step
        file.on_log(args, state, None, logs={"loss": 0.5, "tokens": 12, "note": "fine", "epoch": 1.0})
    assert [line.values for line in read_metrics(tmp_path / METRICS)] == [{"loss": 0.5, "tokens": 12}] * 2
    assert caplog.text.count("metrics.jsonl: note is left out: 'fine' is not a number") == 1
    state.global_step = 1  # a resume from step 1 drops what comes after it
    MetricsFile().on_train_begin(args, state, None)
    assert [line.step for line in read_metrics(tmp_path / METRICS)] == [1]


def test_records_of_a_run_are_checked(tmp_path):
    assert read_provenance(tmp_path) is None
    known = {"git_commit": None, "versions": {"trl": "1.16.0", "peft": None}, "data_sha256": "d"}
    (tmp_path / "provenance.json").write_text(json.dumps(known))
    assert read_provenance(tmp_path) == Provenance(**known)
    (tmp_path / "whole.json").write_text('{"step": 1, "identity": {"recipe": {}}, "files": {}}')
    with pytest.raises(DataError, match="whole.json: key identity.data_sha256 is missing; name another"):
        read_json(tmp_path / "whole.json", Manifest, "name another checkpoint")


def test_what_was_not_given_is_not_written():
    assert "samples" not in summary_of([result_row(0, 1)]).dump()
    assert MetricsLine(step=1, time=0.0).dump() == {"step": 1, "time": 0.0}
