"""Results on disk: resumed, never mixed, never half-written."""

import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from result_rows import result_row

from rft.errors import DataError
from rft.evaluate.results import Results, read_rows
from rft.files import write_whole
from rft.records.run import RunIdentity
from rft.records.summary import read_summary

IDENTITY = RunIdentity.model_validate(
    {"max_new_tokens": 64, "context": "history", "split": "benchmark", "window": "32k", "data_sha256": "abc"}
)
IDS = {f"benchmark-{i}" for i in range(10)}


def rows(*numbers):
    return [result_row(i, 1, completion="naïve \u2028 \ud800 \n\\boxed{a}") for i in numbers]


@contextmanager
def files_of_at_most(size):
    """A stand-in for a full disk: the kernel writes up to `size` bytes of a file and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_rows_come_back_as_they_were(tmp_path):
    with Results(tmp_path, IDENTITY, IDS) as results:
        results.append(rows(0, 1))
        results.append(rows(2))
    with Results(tmp_path, IDENTITY, IDS) as again:
        assert list(again.rows.values()) == rows(0, 1, 2) == read_rows(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == IDENTITY.dump()


@pytest.mark.parametrize("lost", [1, 2, 30])
def test_a_last_line_cut_short_is_dropped(tmp_path, lost, caplog):
    with Results(tmp_path, IDENTITY, IDS) as results:
        results.append(rows(0, 1, 2))
    whole = results.path.read_bytes()
    results.path.write_bytes(whole[:-lost])
    with Results(tmp_path, IDENTITY, IDS) as again:
        assert list(again.rows) == ["benchmark-0", "benchmark-1"]
        again.append(rows(2))
    assert "line 3 was cut short" in caplog.text
    assert again.path.read_bytes() == whole


def test_results_of_another_run_are_refused_and_left_alone(tmp_path):
    with Results(tmp_path, IDENTITY, IDS) as results:
        results.append(rows(0))
    before = results.path.read_bytes()
    with pytest.raises(DataError, match=r"another run \(max_new_tokens was 64, is 32\); name another --out"):
        Results(tmp_path, IDENTITY.model_copy(update={"max_new_tokens": 32}), IDS)
    with pytest.raises(DataError, match="temperature was None, is 1"):
        Results(tmp_path, IDENTITY.model_copy(update={"temperature": 1}), IDS)
    assert results.path.read_bytes() == before


def test_a_broken_run_is_named(tmp_path):
    with Results(tmp_path, IDENTITY, IDS) as results:
        results.append(rows(0))
    (tmp_path / "run.json").write_text('{"context": "history"}')
    with pytest.raises(DataError, match="run.json: key split is missing; name another --out"):
        Results(tmp_path, IDENTITY, IDS)


def test_rows_without_the_run_they_are_of_are_refused(tmp_path):
    (tmp_path / "results.jsonl").write_text(result_row(0, 1).to_line())
    with pytest.raises(DataError, match="results without run.json"):
        Results(tmp_path, IDENTITY, IDS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "benchmark-1", "sco\n', "line 2: broken JSON"),
        ("[1, 2]\n", "line 2: expected a JSON object, found"),
        (result_row(5, 1, id="train-5").to_line(), "line 2: unexpected question 'train-5'"),
        (result_row(0, 1).to_line(), "line 2: unexpected question 'benchmark-0'"),
    ],
)
def test_a_broken_row_is_named(tmp_path, line, said):
    with Results(tmp_path, IDENTITY, IDS) as results:
        results.append(rows(0))
    with results.path.open("a") as file:
        file.write(line + result_row(2, 1).to_line())
    with pytest.raises(DataError, match=f"results.jsonl: {said}.*; remove that line and run again"):
        Results(tmp_path, IDENTITY, IDS)


def test_a_second_writer_is_refused(tmp_path):
    with Results(tmp_path, IDENTITY, IDS), pytest.raises(DataError, match="another process"):
        Results(tmp_path, IDENTITY, IDS)
    Results(tmp_path, IDENTITY, IDS).__exit__(None, None, None)


def test_a_batch_that_the_disk_refuses_leaves_nothing(tmp_path):
    with Results(tmp_path, IDENTITY, IDS) as results:
        results.append(rows(0))
        before = results.path.read_bytes()
        with files_of_at_most(2 * len(before)), pytest.raises(DataError) as error:
            results.append(rows(1, 2, 3))  # the kernel takes the first of them and a half
        assert results.path.read_bytes() == before and list(results.rows) == ["benchmark-0"]
        assert str(results.path) in str(error.value) and "the answers in it (1) are complete" in str(
            error.value
        )
        assert "\n" not in str(error.value)
        results.append(rows(1, 2, 3))
    assert len(read_rows(tmp_path)) == 4


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/out/results.jsonl: cannot write results: Not a directory"):
        Results(tmp_path / "file" / "out", IDENTITY, IDS)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    write_whole(path, "before")
    with (
        files_of_at_most(1000),
        pytest.raises(DataError, match="summary.json: cannot write it: File too large"),
    ):
        write_whole(path, "x" * 5000)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def without(row, key):
    return {name: value for name, value in row.dump().items() if name != key}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: without(row, "answered"), r"key answered is missing; run the same evaluation again$"),
        (lambda row: row.dump() | {"score": "high"}, r"key score: expected a valid number, found 'high';"),
        (lambda row: row.dump() | {"options": "tea"}, r"key options: expected a valid list, found 'tea';"),
        (
            lambda row: row.dump() | {"version": 2},
            r"version 2, written by a newer rft; this one reads version 1",
        ),
        (lambda row: row.dump() | {"version": "a"}, r"key version: expected 1, found 'a';"),
    ],
)
def test_a_row_that_is_wrong_is_named_by_line_and_key(tmp_path, change, said):
    lines = [result_row(0, 1).to_line(), json.dumps(change(result_row(1, 1))) + "\n"]
    (tmp_path / "results.jsonl").write_text("".join(lines))
    with pytest.raises(DataError, match=rf"results.jsonl: line 2: {said}") as error:
        read_rows(tmp_path)
    assert "\n" not in str(error.value)


def test_reading_rows_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="results.jsonl: cannot read it: No such file"):
        read_rows(tmp_path)
    (tmp_path / "results.jsonl").write_text(result_row(0, 1).to_line() + '{"id": "benchm')
    with pytest.raises(DataError, match="line 2: broken JSON .*; run the same evaluation again"):
        read_rows(tmp_path)


OLD = Path(__file__).parent / "old_results"
"""Results of rft at commit 54523b2, before files had a version."""


def test_results_without_a_version_are_read_and_go_on(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    old = [json.loads(line) for line in (OLD / "results.jsonl").read_text().splitlines()]
    found = read_rows(tmp_path / "old")
    assert [row.dump() for row in found] == [{"version": 1} | row for row in old]
    summary = json.loads((OLD / "summary.json").read_text())
    assert read_summary(tmp_path / "old").dump() == {"version": 1} | summary
    identity = RunIdentity.parse((OLD / "run.json").read_text(), "run.json", "")
    with Results(tmp_path / "old", identity, [row.id for row in found]) as results:
        assert list(results.rows.values()) == found


def test_a_row_of_an_old_format_says_who_reads_it(tmp_path):
    row = json.loads((OLD / "results.jsonl").read_text().splitlines()[0])
    row["gold_letter"] = row.pop("gold")
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(
        DataError, match=r"key gold is missing; .* \(it has no version, so an rft of 2026-11-27"
    ):
        read_rows(tmp_path)


def test_rows_from_before_there_were_option_orders_are_read(tmp_path):
    row = result_row(0, 1).dump()
    del row["version"], row["question"]
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    [found] = read_rows(tmp_path)
    assert (found.question, found.order, found.sample, found.open_ended) == ("benchmark-0", 0, 0, False)


def test_keys_that_others_add_are_kept(tmp_path):
    row = result_row(0, 1).dump() | {"note": "look at this"}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    assert read_rows(tmp_path)[0].dump() == row
