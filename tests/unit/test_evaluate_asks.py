"""The ways of asking: every option in every place, ids that say which way, seeds of their own."""

from collections import Counter

import pytest

from rft.data.prompt import final_message
from rft.data.question import Labels, Question
from rft.evaluate.variants import ask_id, asks, parts, seed_of

LABELS = Labels("neutral_preferences", "self", False, "chat", 5, "Enjoys tea", "", False)


def question(row, gold="b"):
    return Question(
        f"benchmark-{row}",
        row,
        "1",
        "h",
        "What should I drink?",
        ("mate", "tea", "milk", "rum"),
        gold,
        LABELS,
    )


def test_the_plain_way_is_the_question_itself():
    questions = [question(0), question(1)]
    assert asks(questions) == questions


def test_each_option_stands_once_in_each_place_and_gold_follows():
    made = asks([question(3, gold) for gold in "abcd"], orders=4)
    assert len(made) == 16
    for i in range(4):
        group = made[4 * i : 4 * i + 4]
        for place in range(4):
            assert {ask.options[place] for ask in group} == {"mate", "tea", "milk", "rum"}
        assert len({ask.options["abcd".index(ask.gold)] for ask in group}) == 1
        assert Counter(ask.gold for ask in group) == dict.fromkeys("abcd", 1)


def test_ids_say_which_way():
    made = asks([question(7)], orders=3, samples=2)
    assert [ask.id for ask in made[:3]] == ["benchmark-7", "benchmark-7/sample1", "benchmark-7/order1"]
    assert [parts(ask.id) for ask in made] == [
        ("benchmark-7", order, sample) for order in range(3) for sample in range(2)
    ]
    assert parts(ask_id("odd-name2-7", 2, 11)) == ("odd-name2-7", 2, 11)


def test_open_ended_questions_show_no_options():
    [ask] = asks([question(0)], open_ended=True)
    assert ask.open_ended and "What should I drink?" in final_message(ask)
    assert not {"tea", "(a)", "boxed"} & set(final_message(ask).replace("{", " ").split())


def test_seeds_depend_on_the_batch_alone():
    one, two = asks([question(0)], samples=2)
    assert seed_of(0, [one]) == seed_of(0, [one]) != seed_of(0, [two]) != seed_of(1, [two])
    assert seed_of(0, [one]) == pytest.approx(seed_of(0, [one])) and 0 <= seed_of(0, [one]) < 2**32
