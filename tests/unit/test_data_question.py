"""A row becomes a question with four options and one gold letter, or is skipped with its reason."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from dataset_folder import row

from reward.mcq import LETTERS
from rft.data.question import Question
from rft.errors import DataError
from rft.tasks.base import UnusableRow
from rft.tasks.personamem.question import read_question


def question(index: int = 0, window: str = "32k", **changes: Any) -> Question:
    return read_question(row(**changes), index, "val", window, "0123456789abcdef", f"val.csv: row {index}")


@pytest.mark.parametrize("index", [0, 1, 2, 17, 4999])
def test_options_are_shuffled_by_the_row_index(index: int) -> None:
    record = row()
    expected = [record["correct_answer"], *json.loads(record["incorrect_answers"])]
    random.Random(42 + index).shuffle(expected)
    read = question(index)
    assert read.options == tuple(expected)
    assert read.options[LETTERS.index(read.gold)] == record["correct_answer"]
    assert (read.id, read.row, read.history_id, read.persona_id) == (
        f"val-{index}",
        index,
        "0123456789abcdef",
        "7",
    )


def test_every_letter_is_gold_somewhere() -> None:
    assert {question(index).gold for index in range(40)} == set(LETTERS[:4])


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ("What's new?", "What's new?"),
        ('Say "hi" to Ann\'s dog\n', 'Say "hi" to Ann\'s dog'),
        ([{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "x"}}], "Look:"),
    ],
)
def test_the_query_is_a_python_literal(content: Any, read: str) -> None:
    literal = repr({"role": "user", "content": content})
    assert question(user_query=literal).query == read


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user_query": ""}, "user_query is empty"),
        ({"user_query": "{'role': 'user', 'content': '  '}"}, "user_query is empty"),
        ({"user_query": "{'role': 'user', 'content': None}"}, "not a dict with a text"),
        ({"user_query": "{'role': 'user'}"}, "not a dict with a text"),
        ({"user_query": "['role', 'user']"}, "not a dict with a text"),
        ({"user_query": "What's new?"}, "not a Python dict literal"),
        ({"user_query": '{"role": "user", "content": null}'}, "not a Python dict literal"),
        ({"user_query": "__import__('os').getcwd()"}, "not a Python dict literal"),
        ({"user_query": "{'content': " + "(" * 5000 + "1" + ")" * 5000 + "}"}, "not a Python dict literal"),
        ({"user_query": "{['a']: 1}"}, "not a Python dict literal"),
        ({"correct_answer": " \n"}, "correct_answer is empty"),
        ({"incorrect_answers": ""}, "incorrect_answers is missing"),
        ({"incorrect_answers": "['x', 'y', 'z']"}, "incorrect_answers is not JSON"),
        ({"incorrect_answers": '{"a": "x"}'}, "incorrect_answers is not a list"),
        ({"incorrect_answers": "null"}, "incorrect_answers is not a list"),
        ({"incorrect_answers": ["x", "y"]}, "2 incorrect_answers; expected 3 texts"),
        ({"incorrect_answers": ["x", "y", "z", "w"]}, "4 incorrect_answers; expected 3 texts"),
        ({"incorrect_answers": ["x", None, "z"]}, "3 incorrect_answers, 1 of them null; expected 3 texts"),
        (
            {"incorrect_answers": ["x", "y", "z", None]},
            "4 incorrect_answers, 1 of them null; expected 3 texts",
        ),
        ({"incorrect_answers": ["x", " ", 3]}, "3 incorrect_answers, 2 of them empty or not a text"),
        ({"incorrect_answers": ["x", "y ", "y"]}, "two incorrect_answers are the same"),
        ({"updated": "perhaps"}, "updated is neither True nor False"),
        ({"distance_from_related_snippet_to_query_32k": "far"}, "distance is not a number"),
    ],
)
def test_irregular_rows_are_skipped_with_their_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as skipped:
        question(**changes)
    assert reason in str(skipped.value)


@pytest.mark.parametrize("again", ["Stay home and read one story.", " Stay home and read one story.\n"])
def test_gold_among_its_distractors_is_an_error(again: str) -> None:
    with pytest.raises(
        DataError, match=r"^val.csv: row 3: the correct answer is also among incorrect_answers"
    ):
        question(3, incorrect_answers=["x", again, "z"])


@pytest.mark.parametrize(
    ("column", "cell", "label", "read"),
    [
        ("pref_type", "sensitive_information", "pref_type", "sensitive_info"),
        ("pref_type", " Ask_to_forget ", "pref_type", "ask_to_forget"),
        ("who", "other", "who", "others"),
        ("who", "Self", "who", "self"),
        ("updated", "True", "updated", True),
        ("updated", "false", "updated", False),
        ("updated", "1.0", "updated", True),
        ("updated", "", "updated", False),
        ("sensitive_info", "False", "sensitive", False),
        ("sensitive_info", "", "sensitive", False),
        ("sensitive_info", "True", "sensitive", True),
        ("sensitive_info", "Passport number", "sensitive", True),
        ("topic_query", ": Food", "topic", "Food"),
        ("topic_query", "Food", "topic", "Food"),
        ("topic_query", "", "topic", ""),
        ("conversation_scenario", "translation", "scenario", "translation"),
        ("distance_from_related_snippet_to_query_32k", "7589", "distance", 7589),
        ("distance_from_related_snippet_to_query_32k", "7589.0", "distance", 7589),
        ("distance_from_related_snippet_to_query_32k", "", "distance", None),
        ("distance_from_related_snippet_to_query_32k", "nan", "distance", None),
        ("prev_pref", "Likes noise", "prev_pref", "Likes noise"),
    ],
)
def test_labels_have_one_spelling(column: str, cell: str, label: str, read: Any) -> None:
    assert question(**{column: cell}).labels[label] == read


def test_distance_is_that_of_the_window() -> None:
    column = "distance_from_related_snippet_to_query_128k"
    assert question(window="128k", **{column: "99"}).labels["distance"] == 99


def test_persona_id_of_spreadsheet_tools() -> None:
    assert question(persona_id="78.0").persona_id == "78"
    assert question(persona_id=" 78 ").persona_id == "78"


def test_a_question_tests_itself() -> None:
    read = question()
    read.check()
    with pytest.raises(DataError, match="val-0"):
        replace(read, gold="e").check()
    with pytest.raises(DataError, match="val-0: expected 4 different options"):
        replace(read, options=("x", "x", "y", "z")).check()


def test_the_self_test_notices_a_reward_that_pays_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    import reward

    check = reward.self_check
    monkeypatch.setattr(
        reward,
        "self_check",
        lambda gold, options: check(gold, lambda completions, **_: [1.0] * len(completions)),
    )
    with pytest.raises(DataError, match="val-0: self-check"):
        question().check()
