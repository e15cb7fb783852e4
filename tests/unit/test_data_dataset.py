"""A dataset folder: every row a question or a skip, nothing read from outside, structural faults named."""

import csv
import errno
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from dataset_folder import IRREGULAR_HISTORY, folder, real_data, row, write_history, write_split
from huggingface_hub.errors import LocalEntryNotFoundError

import rft.tasks.personamem.dataset as dataset
from rft.errors import DataError
from rft.tasks.base import Skip
from rft.tasks.load import load_split
from rft.tasks.personamem.dataset import COLUMNS, HUB_ID, PINNED_REVISION, locate


def refused(root: Path, split: str = "benchmark", window: str = "32k", **options: Any) -> str:
    """The one line with which a split is refused."""
    with pytest.raises(DataError) as error:
        load_split(root, split, window, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_each_row_is_a_question_or_a_skip(tmp_path: Path) -> None:
    rows = [
        row(),
        row(incorrect_answers=["x", "y", "z", None]),
        row(user_query=""),
        row(chat_history_32k_link=""),
        row(correct_answer="Other gold"),
    ]
    split = load_split(folder(tmp_path, rows), "benchmark")
    assert [q.id for q in split.questions] == ["benchmark-0", "benchmark-4"]
    assert split.skipped == (
        Skip(1, "4 incorrect_answers, 1 of them null; expected 3 texts"),
        Skip(2, "user_query is empty"),
        Skip(3, "chat_history_32k_link is empty"),
    )
    alone = load_split(folder(tmp_path / "alone", [rows[4]]), "benchmark").questions[0]
    assert split.questions[1].options != alone.options, "the order must count the skipped rows"


def test_histories_are_read_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "data/chat_history_32k/persona8.json"
    root = folder(tmp_path, [row(), row(persona_id="8", chat_history_32k_link=other), row(), row()])
    write_history(root, "8", IRREGULAR_HISTORY[:3])
    read: list[str] = []
    original = dataset.read_history
    monkeypatch.setattr(dataset, "read_history", lambda path: read.append(path.name) or original(path))
    split = load_split(root, "benchmark")
    assert sorted(read) == ["persona7.json", "persona8.json"]
    assert set(split.histories) == {q.history_id for q in split.questions} and len(split.histories) == 2
    assert [split.history_of(q).persona_id for q in split.questions] == ["7", "8", "7", "7"]


def test_a_history_without_metadata_belongs_to_its_row(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "data/chat_history_32k/persona7.json").write_text('[{"role": "user", "content": "Hello"}]')
    split = load_split(root, "benchmark")
    assert split.history_of(split.questions[0]).persona_id == "7"


def test_sha256_covers_csv_and_histories_wherever_they_lie(tmp_path: Path) -> None:
    one = load_split(folder(tmp_path / "one"), "benchmark").sha256
    assert load_split(folder(tmp_path / "two"), "benchmark").sha256 == one
    assert load_split(folder(tmp_path / "csv", [row(preference="Likes tea")]), "benchmark").sha256 != one
    changed = folder(tmp_path / "history")
    write_history(changed, "7", IRREGULAR_HISTORY[:-1])
    assert load_split(changed, "benchmark").sha256 != one


def test_personas_can_be_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path, [row(), row(persona_id="78"), row(persona_id="78.0")])
    split = load_split(root, "benchmark", exclude_personas=["78", "5"])
    assert [q.row for q in split.questions] == [0]
    assert split.skipped == (Skip(1, "persona 78 is excluded"), Skip(2, "persona 78 is excluded"))


def test_the_window_chooses_the_history(tmp_path: Path) -> None:
    link = "data/chat_history_128k/persona7.json"
    root = folder(tmp_path, [row(chat_history_128k_link=link)])
    write_history(root, "7", IRREGULAR_HISTORY * 2, window="128k")
    assert len(next(iter(load_split(root, "benchmark", "128k").histories.values())).messages) == 18
    assert len(next(iter(load_split(root, "benchmark", "32k").histories.values())).messages) == 9


def test_a_window_that_is_not_there(tmp_path: Path) -> None:
    assert "column chat_history_128k_link is empty in every row" in refused(folder(tmp_path), window="128k")
    assert "unknown window '64k'; expected one of 32k, 128k" in refused(tmp_path, window="64k")


def test_columns_of_the_other_window_are_not_needed(tmp_path: Path) -> None:
    needless = [c for c in COLUMNS if "128k" in c] + ["short_persona", "raw_persona_file"]
    rows = [{key: cell for key, cell in row().items() if key not in needless}]
    assert len(load_split(folder(tmp_path, rows), "benchmark").questions) == 1


@pytest.mark.parametrize(
    "column", ["user_query", "incorrect_answers", "chat_history_32k_link", "updated", "persona_id"]
)
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    rows = [{key: cell for key, cell in row().items() if key != column}]
    message = refused(folder(tmp_path, rows))
    assert "benchmark.csv" in message and f"missing column {column};" in message


def test_empty_and_broken_csvs(tmp_path: Path) -> None:
    path = write_split(folder(tmp_path), "benchmark", [row()])
    whole = path.read_bytes()
    for content, said in (
        (b"", "empty"),
        (whole.splitlines(keepends=True)[0], "no rows"),
        (whole + b"7,data/chat", "row 1: expected 27 cells"),
        (whole + b'7,"data/chat', "row 1: broken CSV"),
        (whole + whole.splitlines(keepends=True)[1].rstrip() + b",surplus\r\n", "row 1: expected 27 cells"),
        (whole.replace(b"story", b"st\xffry"), "not UTF-8"),
    ):
        path.write_bytes(content)
        message = refused(tmp_path)
        assert said in message and "benchmark.csv" in message


def test_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = write_split(folder(tmp_path), "benchmark", [row(), row()])
    header, *lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"\xef\xbb\xbf" + header + b"\r\n".join(lines) + b"\r\n")
    assert [q.row for q in load_split(tmp_path, "benchmark").questions] == [0, 1]


def test_cells_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    before = csv.field_size_limit(131_072)
    root = folder(tmp_path, [row(expanded_persona="x" * 300_000)])
    assert len(load_split(root, "benchmark").questions) == 1
    assert csv.field_size_limit(before) == 131_072


def test_no_usable_row(tmp_path: Path) -> None:
    message = refused(folder(tmp_path, [row(user_query=""), row(user_query=""), row(correct_answer="")]))
    assert "no usable question in 3 rows; most often (2 times): user_query is empty" in message


def test_gold_among_its_distractors_names_file_and_row(tmp_path: Path) -> None:
    rows = [row(), row(incorrect_answers=["x", row()["correct_answer"], "z"])]
    message = refused(folder(tmp_path, rows))
    assert "benchmark.csv: row 1: the correct answer is also among" in message


@pytest.mark.parametrize(
    "link",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "data/../../secret.json",
        "data/chat_history_32k/link.json",
        "data/linked/secret.json",
        "a\0b",
    ],
)
def test_links_stay_inside_the_folder(tmp_path: Path, link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "outside" / "secret.json"
    secret.parent.mkdir()
    secret.write_text('[{"role": "user", "content": "secret"}]')
    root = folder(tmp_path / "data set", [row(), row(chat_history_32k_link=link)])
    (tmp_path / "secret.json").write_text(secret.read_text())
    (root / "data/chat_history_32k/link.json").symlink_to(secret)
    (root / "data/linked").symlink_to(secret.parent)
    original = dataset.read_history
    monkeypatch.setattr(
        dataset,
        "read_history",
        lambda path: original(path) if path.name == "persona7.json" else pytest.fail("opened"),
    )
    message = refused(root)
    assert (
        "benchmark.csv: row 1: chat_history_32k_link" in message
        and "points outside the dataset folder" in message
    )


def test_absolute_links_are_refused_even_into_the_folder(tmp_path: Path) -> None:
    link = str(tmp_path / "data/chat_history_32k/persona7.json")
    assert "points outside the dataset folder" in refused(folder(tmp_path, [row(chat_history_32k_link=link)]))


def test_a_symlink_that_stays_inside_is_fine(tmp_path: Path) -> None:
    root = folder(tmp_path, [row(chat_history_32k_link="data/chat_history_32k/link.json")])
    (root / "data/chat_history_32k/link.json").symlink_to("persona7.json")
    assert len(load_split(root, "benchmark").questions) == 1


def test_a_csv_that_is_a_link_out_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "set")
    (root / "benchmark/text/benchmark.csv").rename(tmp_path / "elsewhere.csv")
    (root / "benchmark/text/benchmark.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert "points outside the dataset folder" in refused(root)


def hub_cache(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    """A snapshot as huggingface_hub keeps it: each file a link into the `blobs` of the same dataset."""
    repo = tmp_path / "datasets--owner--name"
    root = folder(repo / "snapshots" / PINNED_REVISION, rows)
    (repo / "blobs").mkdir()
    for number, path in enumerate([p for p in root.rglob("*") if p.is_file()]):
        path.rename(repo / "blobs" / str(number))
        path.symlink_to(os.path.relpath(repo / "blobs" / str(number), path.parent))
    return root


def test_the_hub_cache_links_into_its_blobs(tmp_path: Path) -> None:
    assert len(load_split(hub_cache(tmp_path, [row()]), "benchmark").questions) == 1


def test_the_hub_cache_is_no_way_out_either(tmp_path: Path) -> None:
    root = hub_cache(tmp_path, [row()])
    (tmp_path / "secret.json").write_text('[{"role": "user", "content": "secret"}]')
    link = root / "data/chat_history_32k/persona7.json"
    link.unlink()
    link.symlink_to(tmp_path / "secret.json")
    assert "points outside the dataset folder" in refused(root)


def test_only_the_hub_cache_has_blobs(tmp_path: Path) -> None:
    root = hub_cache(tmp_path, [row(chat_history_32k_link="../../blobs/0")])
    assert "points outside the dataset folder" in refused(root)
    root = hub_cache(tmp_path / "other", [row()])
    root.parent.rename(root.parents[1] / "folders")
    assert "points outside the dataset folder" in refused(root.parents[1] / "folders" / root.name)


def test_a_missing_history_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path, [row(), row(chat_history_32k_link="data/chat_history_32k/gone.json")])
    message = refused(root)
    assert "benchmark.csv: row 1: history file 'data/chat_history_32k/gone.json' is missing" in message


def test_a_broken_history_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path)
    path = root / "data/chat_history_32k/persona7.json"
    path.write_text(path.read_text()[:-30])
    assert f"{path}: broken JSON" in refused(root)


def test_what_is_not_a_dataset_folder(tmp_path: Path) -> None:
    assert "no benchmark/text/*.csv" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "gone")
    (tmp_path / "file.csv").write_text("x")
    assert "no such folder" in refused(tmp_path / "file.csv")
    assert "no split 'train'; benchmark/text has benchmark" in refused(folder(tmp_path), "train")
    assert "no split '../text/benchmark'" in refused(tmp_path, "../text/benchmark")


def test_the_hub_id_is_downloaded_at_a_pinned_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.append((repo, options))
        return str(folder(tmp_path / "hub", split="val"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("rft.tasks.personamem.dataset.reachable", lambda: True)
    monkeypatch.chdir(tmp_path)
    assert load_split(HUB_ID, "val").root == tmp_path / "hub"
    wanted = ["benchmark/text/val.csv", "data/chat_history_32k/*"]
    assert asked.pop() == (
        HUB_ID,
        {
            "repo_type": "dataset",
            "revision": PINNED_REVISION,
            "allow_patterns": wanted,
            "local_files_only": False,
        },
    )

    locate(HUB_ID, "0" * 40)
    assert asked[0][1]["revision"] == "0" * 40
    wanted = ["benchmark/text/*.csv", "data/chat_history_32k/*", "data/chat_history_128k/*"]
    assert asked.pop()[1]["allow_patterns"] == wanted

    with pytest.raises(DataError, match="specify its revision"):
        locate("somebody/else")
    assert not asked
    locate("somebody/else", "v1")
    assert asked[0][0] == "somebody/else" and asked[0][1]["revision"] == "v1"


@pytest.mark.parametrize(
    "failure", [LocalEntryNotFoundError("no\nnetwork"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failing_download_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def snapshot_download(repo: str, **options: Any) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        load_split(HUB_ID, "val")
    assert HUB_ID in str(error.value) and PINNED_REVISION in str(error.value) and "\n" not in str(error.value)


def test_a_revision_of_a_folder_is_ignored_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="revision abc is ignored"):
        load_split(folder(tmp_path), "benchmark", revision="abc")


def test_the_real_sample() -> None:
    root = real_data() / "personamem_v2_sample"
    split = load_split(root, "benchmark")
    assert len(split.questions) == 24 and not split.skipped and len(split.histories) == 1
    assert {q.persona_id for q in split.questions} == {"0"}
    assert all(q.labels["topic"] == q.labels["topic"].lstrip(": ") for q in split.questions)
    irregular = load_split(root, "irregular")
    assert [q.row for q in irregular.questions] == [0]
    assert irregular.skipped == (Skip(1, "4 incorrect_answers, 1 of them null; expected 3 texts"),)
    assert set(irregular.histories) == set(split.histories)
