"""`rft data check` tells what is wrong, and what is merely worth knowing."""

import argparse
import io
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dataset_folder import IRREGULAR_HISTORY, folder, real_data, row, tokenizer, write_history, write_split
from rich.console import Console

import reward
import rft.data.prompt as prompt
from rft.data.prompt import PromptTokens
from rft.data.rules import bar
from rft.errors import CheckpointError, DataError
from rft.tasks.audit import prove_label_free, shortcuts, telling_rules
from rft.tasks.check import add_arguments, check, run
from rft.tasks.load import load_split
from rft.tasks.personamem.audit import repeated_labels


def told(source: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """The findings, and what was printed."""
    stream = io.StringIO()
    report = check(source, console=Console(file=stream, width=120), **options)
    assert json.loads(json.dumps(report)) == report
    return report, stream.getvalue()


def fair(number: int, **changes: Any) -> dict[str, str]:
    """A row with options of equal length, of which none is gold more often."""
    texts = [f"Choose the {thing} number {number:03}." for thing in ("pear", "plum", "kiwi", "lime")]
    gold = texts.pop(random.Random(number).randrange(4))
    return row(correct_answer=gold, incorrect_answers=texts, **changes)


def dataset(root: Path, personas: dict[str, str], questions: int = 30) -> Path:
    """Splits by name, each with the personas named in a text such as "1 2", and `questions` fair rows
    each.
    """
    for place, (split, names) in enumerate(personas.items()):
        rows = []
        for name in names.split():
            write_history(
                root, name, [*IRREGULAR_HISTORY, {"role": "assistant", "content": f"This is for {name}."}]
            )
            link = f"data/chat_history_32k/persona{name}.json"
            rows += [
                fair(n + 100 * place, persona_id=name, chat_history_32k_link=link) for n in range(questions)
            ]
        write_split(root, split, rows)
    return root


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_a_sound_dataset(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"train": "1 2", "val": "3", "benchmark": "4"})
    report, text = told(root, strict=True)
    assert report["ok"] and not report["warnings"] and not report["errors"] and not report["notes"]
    assert list(report["splits"]) == ["train", "val", "benchmark"]
    train = report["splits"]["train"]
    assert (train["rows"], train["questions"], train["personas"], train["skipped"]) == (60, 60, 2, {})
    assert train["labels"] == {
        "pref_type": {"neutral_preferences": 60},
        "who": {"self": 60},
        "updated": {"False": 60},
        "scenario": {"knowledge_query": 60},
    }
    assert train["tokens"] == {"history, authors": [1200, 1200, 1200]}
    assert train["sha256"] == load_split(root, "train").sha256
    assert "OK: 0 errors, 0 warnings (strict)" in text


def test_skipped_rows_are_told_with_their_reasons(tmp_path: Path) -> None:
    rows = [
        fair(0),
        fair(1, user_query=""),
        fair(2),
        fair(3, user_query=""),
        row(incorrect_answers=["x", None]),
    ]
    report, text = told(folder(tmp_path, rows))
    found = report["splits"]["benchmark"]
    assert (found["rows"], found["questions"]) == (5, 2)
    assert found["skipped"] == {
        "user_query is empty": 2,
        "2 incorrect_answers, 1 of them null; expected 3 texts": 1,
    }
    assert [skipped for skipped, _ in found["skipped_rows"]] == [1, 3, 4]
    assert "benchmark: 2 skipped: user_query is empty (rows 1, 3)" in text
    assert "benchmark: 1 skipped: 2 incorrect_answers, 1 of them null; expected 3 texts (row 4)" in text
    assert report["ok"] and not told(tmp_path, strict=True)[0]["ok"]


def test_a_persona_trained_on_and_tested_on_is_named(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"train": "1 78", "val": "2", "benchmark": "10 78"})
    report, text = told(root)
    assert report["shared_personas"] == {"78": {"train": 30, "benchmark": 30}}
    (warning,) = report["warnings"]
    assert "persona 78" in warning and "--exclude-personas 78" in warning and warning in text
    assert run(arguments(root)) == 0 and run(arguments(root, "--strict")) == 1

    report, _ = told(root, exclude_personas=["78"], strict=True)
    assert report["ok"] and not report["shared_personas"]
    assert report["splits"]["train"]["skipped"] == {"persona 78 is excluded": 30}
    assert report["splits"]["benchmark"]["questions"] == 60, "the benchmark is read whole"
    assert run(arguments(root, "--strict", "--exclude-personas", "78")) == 0


def test_val_may_share_personas_with_train(tmp_path: Path) -> None:
    report, _ = told(dataset(tmp_path, {"train": "1 2", "val": "2 3"}), strict=True)
    assert report["ok"] and report["notes"] == [
        "val shares 1 of its 2 personas with train: it measures new questions, not new people"
    ]


def test_an_exclusion_that_does_nothing_warns(tmp_path: Path) -> None:
    report, _ = told(dataset(tmp_path, {"train": "1", "benchmark": "2"}), exclude_personas=["2", "5"])
    assert [w.split(" is ignored")[0] for w in report["warnings"]] == [
        "--exclude-personas 2",
        "--exclude-personas 5",
    ]


def test_a_split_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = dataset(tmp_path, {"train": "1", "benchmark": "2"})
    write_history(root, "7")
    write_split(root, "val", [fair(0), fair(1, chat_history_32k_link="../../etc/passwd")])
    report, _ = told(root)
    assert set(report["splits"]) == {"train", "benchmark"} and not report["ok"]
    (error,) = report["errors"]
    assert "val.csv: row 1: chat_history_32k_link '../../etc/passwd' points outside" in error
    assert run(arguments(root, "--json", tmp_path / "findings.json")) == 2
    assert error in capsys.readouterr().out
    assert json.loads((tmp_path / "findings.json").read_text()) == report


def test_findings_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write the findings"):
        run(arguments(dataset(tmp_path, {"train": "1"}), "--json", tmp_path / "file" / "findings.json"))


def test_no_dataset_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        run(arguments(tmp_path / "gone"))
    with pytest.raises(DataError, match="no benchmark/text"):
        run(arguments(tmp_path))


def test_missing_official_columns_are_told(tmp_path: Path) -> None:
    rows = [{key: cell for key, cell in fair(0).items() if key not in ("short_persona", "raw_persona_file")}]
    report, _ = told(folder(tmp_path, rows))
    assert report["warnings"] == [
        "benchmark: the official columns raw_persona_file, short_persona are missing"
    ]


def test_a_history_of_another_persona_and_a_query_asked_before(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "What shall I read tonight?"}
    report, _ = told(folder(tmp_path, [fair(0), fair(1, persona_id="8"), fair(2, user_query=asked)]))
    assert report["warnings"] == ["benchmark: the history belongs to another persona (row 1)"]
    assert report["notes"] == ["benchmark: the query is a message of the history (row 2)"]


def test_histories_of_equal_content_are_nobody_elses(tmp_path: Path) -> None:
    root = folder(tmp_path, [fair(0), *(fair(i, persona_id=str(7 + i)) for i in (1, 2, 3))])
    for persona in ("8", "9", "10"):
        write_history(root, persona)
    links = {7 + i: fair(0)["chat_history_32k_link"].replace("persona7", f"persona{7 + i}") for i in range(4)}
    write_split(
        root,
        "benchmark",
        [fair(i, persona_id=str(7 + i), chat_history_32k_link=links[7 + i]) for i in range(4)],
    )
    report, _ = told(root)
    assert not [warning for warning in report["warnings"] if "another persona" in warning]


def test_splits_that_are_the_same_rows_are_an_error(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"train": "1 2", "val": "3", "benchmark": "4"})
    for name in ("val", "benchmark"):
        (root / f"benchmark/text/{name}.csv").write_bytes((root / "benchmark/text/train.csv").read_bytes())
    report, text = told(root)
    assert not report["ok"] and len(report["errors"]) == 3
    assert (
        "train and benchmark share most questions: 60 of 60 of benchmark are also in train (rows 0, 1, 2, 3,"
        " 4 ...)" in text
    )


def test_questions_asked_again_in_another_order_are_named(tmp_path: Path) -> None:
    rows = [fair(i) for i in range(8)]
    wrong = json.loads(rows[0]["incorrect_answers"])
    again = rows[0] | {"incorrect_answers": json.dumps(wrong[::-1])}
    root = folder(tmp_path, [*rows, again])
    write_split(root, "train", [fair(i) for i in range(20, 28)] + [again])
    report, _ = told(root)
    assert (
        "benchmark: 1 questions repeat an earlier question of this split, with the same options in any order"
        " (row 8)" in (report["warnings"])
    )
    assert [
        w
        for w in report["warnings"]
        if w.startswith("benchmark: 1 of its questions are also in train (rows 0, 8)")
    ]


def test_the_shortcut_audit_against_hand_counts(tmp_path: Path) -> None:
    def lengths(gold: int, *others: int) -> dict[str, str]:
        return row(
            correct_answer="g" * gold,
            incorrect_answers=[letter * n for letter, n in zip("xyz", others, strict=True)],
        )

    rows = [
        lengths(9, 5, 5, 5),
        lengths(9, 9, 3, 3),
        lengths(2, 2, 2, 2),
        lengths(1, 2, 3, 4),
        lengths(3, 1, 5, 5),
    ]
    questions = load_split(folder(tmp_path, rows), "benchmark").questions
    report = shortcuts(questions)
    assert report["n"] == 5
    assert (report["gold_longest_alone"], report["gold_longest"]) == (1 / 5, 3 / 5)
    assert (report["gold_shortest_alone"], report["gold_shortest"]) == (1 / 5, 2 / 5)
    assert report["rules"]["longest option"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 5)
    assert report["rules"]["shortest option"] == pytest.approx((1 + 1 / 4) / 5)
    assert report["letters"] == {letter: sum(q.gold == letter for q in questions) for letter in "abcd"}
    assert report["by"] == dict.fromkeys(report["by"], {}), "no category has 300 questions"


def test_rules_that_tell_something() -> None:
    def told_of(n: int, longest: float, **by: dict[str, object]) -> list[str]:
        rules = {"longest option": longest, "shortest option": 0.1}
        strongest = {"rule": "longest option", "score": longest, "n": n, "bar": bar(n, len(rules), 0.25)}
        return telling_rules({"rules": rules, "strongest": strongest, "by": by})

    assert told_of(50_000, longest=0.279) == [], "within 3 points"
    assert told_of(50_000, longest=0.29) == ["longest option scores 29.0%"]
    assert told_of(8, longest=0.5) == [], "within chance"
    assert told_of(60, longest=0.5) == ["longest option scores 50.0%"]
    cell = {"rule": "always a", "score": 0.4, "n": 500, "telling": True}
    by_who = {"others": cell, "self": {**cell, "telling": False}}
    assert told_of(8, 0.25, who=by_who) == ["by who: others (always a 40.0% of 500)"]


def test_a_category_that_tells_fails_strictly_and_stands_in_the_json(tmp_path: Path) -> None:
    """Over all questions the generic option is gold in a quarter; of those about somebody else, always."""
    rows = []
    for number in range(1200):
        letters = random.Random(number)
        values = [" ".join("".join(letters.choices("bcdfghklmn", k=5)) for _ in range(2)) for _ in range(3)]
        generic = number % 4 == 0
        options = ["quite novel", *values] if generic else [*values, "quite novel"]
        rows.append(
            row(correct_answer=options[0], incorrect_answers=options[1:], who="others" if generic else "self")
        )
    report, text = told(folder(tmp_path, rows), strict=True)
    cell = report["splits"]["benchmark"]["shortcuts"]["by"]["who"]["others"]
    assert (cell["rule"], cell["score"], cell["n"]) == ("the most common option text", 1.0, 300)
    assert not report["ok"]
    assert any(
        "by who: others (the most common option text 100.0% of 300)" in warning
        for warning in report["warnings"]
    )
    assert "strongest by who" in text and "strongest of these" in text


def test_questions_about_what_was_never_told_are_counted_apart(tmp_path: Path) -> None:
    said = [{"role": "assistant", "content": "A short story."}]
    rows = [fair(0, related_conversation_snippet=said), fair(1, related_conversation_snippet=""), fair(2)]
    audit = told(folder(tmp_path, rows))[0]["splits"]["benchmark"]["shortcuts"]
    assert (audit["evidence"], audit["never_told"]) == (0.5, 1), (
        "row 2 names a message that is not in the history"
    )
    untold = told(folder(tmp_path / "none", [fair(0, related_conversation_snippet="")]))[0]["splits"][
        "benchmark"
    ]["shortcuts"]
    assert (untold["evidence"], untold["never_told"]) == (None, 1)


def test_a_dataset_whose_gold_is_the_longest_fails_strictly(tmp_path: Path) -> None:
    rows = [row(correct_answer=f"A much longer answer than all of the others, {n}.") for n in range(20)]
    report, text = told(folder(tmp_path, rows), strict=True)
    assert all(warning in text for warning in report["warnings"])
    for rule in ("longest option", "a trained probe on the options"):
        assert any(f"{rule} scores 100.0%" in warning for warning in report["warnings"]), rule
    assert not report["ok"] and "FAILED" in text


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({}, []),
        ({"user_query": {"content": "As one who likes quiet  evenings at home, what now?"}}, ["preference"]),
        ({"prev_pref": "likes loud parties", "user_query": {"content": "LIKES loud parties"}}, ["prev_pref"]),
        ({"preference": "chess", "user_query": {"content": "Chess?"}}, []),
        ({"preference": "Read one story.", "prev_pref": "Cook a meal with many spices."}, []),
        ({"correct_answer": "Being a clockmaker who sails on Sundays, go."}, ["short_persona"]),
        (
            {
                "correct_answer": (
                    'I see {"short_persona": "A clockmaker who sails on Sundays", "name": "Ada"}.'
                )
            },
            ["short_persona", "expanded_persona"],
        ),
        ({"correct_answer": "I would rather not go out tonight. OK"}, ["related_conversation_snippet"]),
        ({"user_query": {"content": "I would rather not go out tonight."}}, []),
        ({"related_conversation_snippet": "What should I do on"}, ["related_conversation_snippet"]),
    ],
)
def test_labels_repeated_in_a_question(tmp_path: Path, changes: dict[str, Any], columns: list[str]) -> None:
    record = row(**changes)
    root = folder(tmp_path, [record])
    assert repeated_labels(load_split(root, "benchmark").questions[0], record) == columns
    report, _ = told(root)
    assert [w for w in report["warnings"] if "occurs in the question" in w] == [
        f"benchmark: the text of {column} occurs in the question itself (row 0)" for column in columns
    ]


@pytest.mark.parametrize("label", ["preference", "pref_type", "scenario", "topic"])
def test_a_prompt_that_tells_a_label_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    split = load_split(folder(tmp_path), "benchmark")
    question = split.questions[0]
    prove_label_free(question, split.history_of(question))
    original = prompt.final_message
    monkeypatch.setattr(prompt, "final_message", lambda q: original(q) + str(q.labels[label]))
    with pytest.raises(
        DataError, match=r"benchmark-0: its prompt in context 'history' depends on its labels"
    ):
        prove_label_free(question, split.history_of(question))
    assert "depends on its labels" in told(tmp_path)[0]["errors"][0]


def test_a_prompt_that_tells_the_gold_letter_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = load_split(folder(tmp_path), "benchmark")
    original = prompt.final_message
    monkeypatch.setattr(prompt, "final_message", lambda q: original(q) + q.gold)
    with pytest.raises(DataError, match="depends on its labels"):
        for gold in "bcd":
            prove_label_free(replace(split.questions[0], gold=gold), split.history_of(split.questions[0]))


def test_a_question_that_fails_its_own_test_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pays_nothing(gold: str, options: tuple[str, ...]) -> None:
        raise ValueError("the gold letter scores 0")

    monkeypatch.setattr(reward, "self_check", pays_nothing)
    assert told(folder(tmp_path))[0]["errors"] == ["question benchmark-0: the gold letter scores 0"]


def test_prompt_tokens_of_a_tokenizer_folder(tmp_path: Path) -> None:
    reader = tokenizer()
    reader.save_pretrained(tmp_path / "model")
    root = dataset(tmp_path / "data", {"benchmark": "1 2"}, questions=3)
    counts = told(root, tokenizer=tmp_path / "model")[0]["splits"]["benchmark"]["tokens"]
    tokens, split = PromptTokens(reader), load_split(root, "benchmark")
    lengths = sorted(len(tokens.prompt_ids(q, split.history_of(q))) for q in split.questions)
    assert counts["prompt"] == [lengths[0], lengths[3], lengths[-1]]
    assert counts["history"][0] + counts["question"][0] == counts["prompt"][0]
    assert told(root, tokenizer=reader)[0]["splits"]["benchmark"]["tokens"] == counts


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(CheckpointError) as error:
        told(dataset(tmp_path / "data", {"benchmark": "1"}, questions=1), tokenizer=tmp_path / "model")
    assert str(tmp_path / "model") in str(error.value) and "\n" not in str(error.value)


def test_the_long_window(tmp_path: Path) -> None:
    root = folder(tmp_path, [fair(0, chat_history_128k_link="data/chat_history_128k/persona7.json")])
    write_history(root, "7", window="128k")
    report, _ = told(root, window="128k")
    assert report["window"] == "128k" and report["splits"]["benchmark"]["tokens"] == {
        "history, authors": None
    }
    assert run(arguments(root, "--window", "128k")) == 0


def test_reading_data_needs_no_torch() -> None:
    code = (
        "import sys, rft.tasks.check, rft.data.prompt\n"
        "heavy = {'torch', 'transformers', 'numpy', 'huggingface_hub', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_real_sample() -> None:
    report, text = told(real_data() / "personamem_v2_sample")
    benchmark, irregular = report["splits"]["benchmark"], report["splits"]["irregular"]
    assert (benchmark["rows"], benchmark["questions"], benchmark["skipped"]) == (24, 24, {})
    assert (irregular["rows"], irregular["questions"]) == (2, 1)
    assert irregular["skipped"] == {"4 incorrect_answers, 1 of them null; expected 3 texts": 1}
    assert "irregular: 1 skipped: 4 incorrect_answers, 1 of them null; expected 3 texts (row 1)" in text
    assert (
        benchmark["shortcuts"]["gold_longest"] == 12 / 24
        and benchmark["shortcuts"]["gold_shortest"] == 6 / 24
    )
    assert benchmark["tokens"] == {"history, authors": [31726, 31726, 31726]}
    assert sum(benchmark["shortcuts"]["letters"].values()) == 24
    assert report["ok"] and not report["shared_personas"]
