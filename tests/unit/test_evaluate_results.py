"""Results on disk: resumed, never mixed, never half-written."""

import json
import resource
from contextlib import contextmanager

import pytest

from rft.errors import DataError
from rft.evaluate.results import Results, read_rows
from rft.files import write_whole

IDENTITY = {"data_sha256": "abc", "context": "history", "max_new_tokens": 64}
IDS = {f"benchmark-{i}" for i in range(10)}


def rows(*numbers):
    return [
        {"id": f"benchmark-{i}", "score": 1.0, "completion": "naïve \u2028 \ud800 \n\\boxed{a}"}
        for i in numbers
    ]


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
    assert json.loads((tmp_path / "run.json").read_text()) == IDENTITY


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
        Results(tmp_path, IDENTITY | {"max_new_tokens": 32}, IDS)
    with pytest.raises(DataError, match="temperature was None, is 1"):
        Results(tmp_path, IDENTITY | {"temperature": 1}, IDS)
    assert results.path.read_bytes() == before


def test_rows_without_the_run_they_are_of_are_refused(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"id": "benchmark-0", "score": 1}\n')
    with pytest.raises(DataError, match="results without run.json"):
        Results(tmp_path, IDENTITY, IDS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "benchmark-1", "sco\n', "line 2: not a result row"),
        ('{"id": "train-5", "score": 1}\n', "line 2: unexpected question 'train-5'"),
        ('{"id": "benchmark-0", "score": 1}\n', "line 2: unexpected question 'benchmark-0'"),
    ],
)
def test_a_broken_row_is_named(tmp_path, line, said):
    with Results(tmp_path, IDENTITY, IDS) as results:
        results.append(rows(0))
    with results.path.open("a") as file:
        file.write(line + '{"id": "benchmark-2", "score": 1}\n')
    with pytest.raises(DataError, match=f"results.jsonl: {said}"):
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


def test_reading_rows_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="results.jsonl: cannot read results: No such file"):
        read_rows(tmp_path)
    (tmp_path / "results.jsonl").write_text('{"id": "benchmark-0", "score": 1}\n{"id": "benchm')
    with pytest.raises(DataError, match="line 2: not a result row"):
        read_rows(tmp_path)
