"""A dataset of one's own in JSON lines: every row is a question or is named, and the data check says what it
can."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from dataset_folder import folder, tokenizer
from rich.console import Console

from reward.judge import RUBRICS
from rft.data.history import Message, history_id
from rft.data.prompt import PromptTokens, final_message, messages
from rft.errors import DataError
from rft.memory.chunks import split as split_into_chunks
from rft.tasks.check import check
from rft.tasks.load import load_split, split_names, task_named

CHAT = [{"role": "user", "content": "I drink green tea."}, {"role": "assistant", "content": "Nice."}]
ROW: dict[str, Any] = {"history": CHAT, "query": "What do I drink?", "answer": "green tea"}


def write(root: Path, rows: list[Any], split: str = "train", **about: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if about:
        (root / "dataset.json").write_text(json.dumps(about))
    return root


def told(root: Path, **options: Any) -> tuple[dict[str, Any], str]:
    stream = io.StringIO()
    report = check(root, console=Console(file=stream, width=140), **options)
    assert json.loads(json.dumps(report)) == report
    return report, stream.getvalue()


def test_a_question_has_as_many_letters_as_options(tmp_path: Path) -> None:
    options = [f"Drink number {i}." for i in range(26)]
    rows = [ROW | {"options": options[:n], "answer": options[1]} for n in (2, 3, 6, 26)]
    for question in load_split(write(tmp_path, rows), "train").questions:
        count = len(question.options)
        assert question.gold_text == options[1] and sorted(question.options) == sorted(options[:count])
        shown = final_message(question)
        assert f"({chr(96 + count)}) " in shown and f"({chr(97 + count)}) " not in shown
        question.check()


def test_the_order_of_the_options_depends_on_the_row_alone(tmp_path: Path) -> None:
    rows = [ROW | {"options": list("uvwxyz"), "answer": "w"}] * 60
    one = load_split(write(tmp_path / "one", rows), "train").questions
    other = [ROW | {"options": list("uwvxyz"), "answer": "w"}] * 60
    two = load_split(write(tmp_path / "two", other), "train").questions
    assert [q.gold for q in one] == [q.gold for q in two] and {q.gold for q in one} == set("abcdef")


def test_free_answers_and_abstention_are_asked_in_the_same_words(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"answer": ["tea", "green tea"]}, ROW | {"answer": None}]
    questions = load_split(write(tmp_path, rows), "train").questions
    assert len({final_message(question) for question in questions}) == 1
    assert [question.accepted for question in questions] == [("green tea",), ("tea", "green tea"), ()]
    assert [question.abstain for question in questions] == [False, False, True]
    task = task_named("jsonl")
    assert [task.judged(question)[0] for question in questions] == ["answer", "answer", "unknown"]
    assert {"answer", "unknown"} <= set(RUBRICS)


def test_only_a_judge_scores_where_the_dataset_says_so(tmp_path: Path) -> None:
    root = write(tmp_path, [ROW | {"labels": {"rubric": "It helps."}}], judge_only=True)
    [question] = load_split(root, "train").questions
    assert not question.compared and "few words" not in final_message(question)
    assert task_named("jsonl").judged(question) == ("It helps.", "green tea")


def test_dates_sessions_and_names_are_shown_where_they_change(tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": "Hi.", "name": "Ada", "date": "2023-05-08T13:56", "session": 1},
        {"role": "assistant", "content": "Hello.", "date": "2023-05-08T13:57", "session": 1},
        {"role": "user", "content": "Again.", "name": "Ada", "date": "2023-05-08T20:00", "session": 2},
        {"role": "user", "content": "Later.", "date": "2023-06-01", "session": 2},
    ]
    split = load_split(write(tmp_path, [ROW | {"history": chat, "date": "2023-06-02"}]), "train")
    question = split.questions[0]
    said = [m["content"] for m in messages(question, split.history_of(question), "history")]
    assert said[1:-1] == [
        "[session 1, Mon 2023-05-08 13:56]\nAda: Hi.",
        "Hello.",
        "[session 2, Mon 2023-05-08 20:00]\nAda: Again.",
        "[session 2, Thu 2023-06-01]\nLater.",
    ]
    assert said[-1].startswith("Today is Fri 2023-06-02.\n\nWhat do I drink?")
    tokens = PromptTokens(tokenizer())
    for chunk in split_into_chunks(split.history_of(question), tokens, 60):
        assert chunk.history.messages[0].date, "a chunk begins with its date"
        rendered = tokens.history_ids(chunk.history)
        assert len(rendered) - len(tokens.history_ids(chunk.history.__class__("", "", "", ()))) <= 60


def test_ids_of_histories_without_dates_are_as_they_were() -> None:
    plain = (Message("user", "Hi."), Message("assistant", "Hello."))
    assert history_id(plain) == "d00966df9d40c918"
    assert history_id((Message("user", "Hi.", date="2023-05-08"), plain[1])) != history_id(plain)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("[1, 2]", "the line is not a JSON object"),
        ({"anwser": "x"}, "unknown key 'anwser'; expected id, person, history"),
        ({"query": None}, "query is not a text"),
        ({"query": " "}, "query is empty"),
        ({"query": "a\ud800b"}, "query contains half a surrogate pair"),
        ({"options": ["a", "b"]}, "answer is none of the options"),
        ({"options": ["green tea", "x", "x"]}, "two options are the same"),
        ({"options": ["green tea", "green  tea\n"]}, "two options are the same"),
        ({"options": ["green tea"]}, "options is not a list of 2 to 26 texts"),
        ({"options": ["green tea", 3]}, "an option is not a text"),
        ({"options": ["green tea", "x"], "answer": None}, "answer is none of the options"),
        ({"answer": []}, "answer is neither a text, a list of texts nor null"),
        ({"answer": 7}, "answer is neither a text, a list of texts nor null"),
        ({"labels": ["x"]}, "labels is not an object of texts, numbers and true or false"),
        ({"labels": {"x": None}}, "labels is not an object of texts, numbers and true or false"),
        ({"date": "yesterday"}, "date is not ISO 8601"),
        ({"history": []}, "history is neither a list of messages nor a path"),
        ({"history": [{"role": "tool", "content": "x"}]}, "history: message 0: unknown role 'tool'"),
        ({"history": [{"role": "user", "content": "x", "date": "x"}]}, "'date' must be ISO 8601"),
        ({"id": "first"}, "id is that of row 0"),
        ({"id": "q/order2"}, "id ends like that of a variant"),
    ],
)
def test_a_row_that_is_no_question_is_skipped_with_its_reason(
    tmp_path: Path, change: Any, reason: str
) -> None:
    bad = change if isinstance(change, str) else ROW | change
    split = load_split(write(tmp_path, [ROW | {"id": "first"}, bad, ROW]), "train")
    assert [question.row for question in split.questions] == [0, 2]
    [skip] = split.skipped
    assert skip.row == 1 and reason in skip.reason
    report, printed = told(tmp_path)
    assert report["splits"]["train"]["skipped_rows"] == [[1, skip.reason]] and skip.reason[:40] in printed
    assert any("1 of 3 rows skipped (row 1)" in warning for warning in report["warnings"])


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ('{"query": ', r"train\.jsonl: line 2: not JSON \(Expecting value, column \d+\)"),
        (ROW | {"history": "../secret.json"}, r"row 1: history '\.\./secret\.json' points outside"),
        (ROW | {"history": "/etc/passwd"}, "row 1: history '/etc/passwd' points outside"),
        (ROW | {"history": "histories/none.json"}, "row 1: history file 'histories/none.json' is missing"),
        (ROW | {"history": "link.json"}, "row 1: history 'link.json' points outside"),
    ],
)
def test_a_folder_that_is_not_what_its_author_thinks_is_an_error(
    tmp_path: Path, row: Any, error: str
) -> None:
    (tmp_path / "secret.json").write_text(json.dumps(CHAT))
    root = write(tmp_path / "data", [ROW, row])
    (root / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(DataError, match=error):
        load_split(root, "train")
    report, _ = told(root)
    assert len(report["errors"]) == 1 and not report["ok"]


def test_bytes_that_are_not_utf8_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b'{"query": "\xff"}\n')
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        load_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("about", "error"),
    [
        ({"report_by": "topic"}, "report_by: expected a list of texts"),
        ({"published": [{"name": "x"}]}, "published: expected a list of"),
        ({"judge_only": "yes"}, "judge_only: expected true or false"),
    ],
)
def test_a_broken_description_is_an_error(tmp_path: Path, about: dict[str, Any], error: str) -> None:
    with pytest.raises(DataError, match=error):
        load_split(write(tmp_path, [ROW], **about), "train")


def test_the_format_is_told_by_the_files(tmp_path: Path) -> None:
    root = folder(tmp_path / "csv")
    (root / "memory_targets.jsonl").write_text("{}\n")
    assert load_split(root, "benchmark").task == "personamem" and split_names(root) == ["benchmark"]
    mine = write(write(tmp_path / "mine", [ROW], "val"), [ROW], "train")
    assert split_names(mine) == ["train", "val"] and load_split(mine, "val").task == "jsonl"
    with pytest.raises(DataError, match="no split 'benchmark'; it has train, val"):
        load_split(mine, "benchmark")


def test_a_file_and_a_row_with_the_same_messages_are_one_history(tmp_path: Path) -> None:
    (tmp_path / "ada.json").write_text(json.dumps({"chat_history": CHAT, "metadata": {"persona_id": 5}}))
    split = load_split(write(tmp_path, [ROW | {"history": "ada.json"}, ROW, ROW | {"person": "bo"}]), "train")
    assert len(split.histories) == 1
    assert [question.persona_id for question in split.questions] == ["5", "5", "bo"]
    left = load_split(tmp_path, "train", exclude_personas=["5"])
    assert [q.persona_id for q in left.questions] == ["bo"] and left.skipped[
        0
    ].reason == "persona 5 is excluded"


LONG = {"options": ["Coffee.", "Beer.", "A whole pot of tea."], "answer": "A whole pot of tea."}


LEAKING: list[dict[str, Any]] = [
    ROW | {"query": "Green tea or what?"},
    ROW | {"answer": "black coffee"},
    *[ROW | LONG | {"query": f"{i}?"} for i in range(40)],
]


def test_the_check_tells_leaks_lengths_repetitions_and_overlaps(tmp_path: Path) -> None:
    of_ada = [row | {"person": "ada"} for row in LEAKING]
    root = write(tmp_path, [*of_ada, ROW | LONG | {"query": "0?"}])
    write(root, of_ada[:4] + [ROW] * 20, "benchmark")
    report, printed = told(root, tokenizer=tokenizer())
    said = "\n".join(report["warnings"])
    assert "train: the answer occurs in the query (row 0)" in said
    assert "train: a rule that reads no history beats chance (33%): longest option scores 100.0%" in said
    assert "train: 1 questions repeat an earlier question of this split" in said
    assert "persona ada is in both the training and the test data" in said
    assert any("occurs nowhere in its history, word for word (row 1)" in note for note in report["notes"])
    train = report["splits"]["train"]
    assert train["shortcuts"]["gold_longest_alone"] == 1 and train["shortcuts"]["letters"].keys() == set(
        "abc"
    )
    assert train["shortcuts"]["with_options"] == 41 and train["shortcuts"]["in_history"] == 0.5
    assert train["tokens"]["prompt"][0] > 0 and "questions without options" in printed
    assert "history, characters " in printed and "prompt, tokens " in printed


def test_questions_without_options_alone_can_be_checked(tmp_path: Path) -> None:
    root = write(tmp_path, [ROW, ROW | {"answer": None}], notes=["made by hand"])
    report, printed = told(root)
    assert report["ok"] and "train: made by hand" in report["notes"] and "rules" not in printed
    (root / "benchmark.jsonl").write_text((root / "train.jsonl").read_text())
    notes = check(root)["notes"]
    assert [note for note in notes if "made by hand" in note] == ["train, benchmark: made by hand"]
