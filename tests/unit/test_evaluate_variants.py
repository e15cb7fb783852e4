"""The ways of asking: every option in every place, ids that say which way, seeds of their own."""

from collections import Counter

import pytest

from rft.data.prompt import final_message
from rft.data.question import Question
from rft.evaluate.variants import seed_of, variant_id, variant_parts, variants_of

LABELS = {"kind": "tea"}


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
    assert variants_of(questions) == questions


def test_each_option_stands_once_in_each_place_and_gold_follows():
    made = variants_of([question(3, gold) for gold in "abcd"], orders=4)
    assert len(made) == 16
    for i in range(4):
        group = made[4 * i : 4 * i + 4]
        for place in range(4):
            assert {variant.options[place] for variant in group} == {"mate", "tea", "milk", "rum"}
        assert len({variant.options["abcd".index(variant.gold)] for variant in group}) == 1
        assert Counter(variant.gold for variant in group) == dict.fromkeys("abcd", 1)


def test_ids_say_which_way():
    made = variants_of([question(7)], orders=3, samples=2)
    assert [variant.id for variant in made[:3]] == [
        "benchmark-7",
        "benchmark-7/sample1",
        "benchmark-7/order1",
    ]
    assert [variant_parts(variant.id) for variant in made] == [
        ("benchmark-7", order, sample) for order in range(3) for sample in range(2)
    ]
    assert variant_parts(variant_id("odd-name2-7", 2, 11)) == ("odd-name2-7", 2, 11)


def test_open_ended_questions_show_no_options():
    [variant] = variants_of([question(0)], open_ended=True)
    assert variant.open_ended and "What should I drink?" in final_message(variant)
    assert not {"tea", "(a)", "boxed"} & set(final_message(variant).replace("{", " ").split())


def test_seeds_depend_on_the_batch_alone():
    one, two = variants_of([question(0)], samples=2)
    assert seed_of(0, [one]) == seed_of(0, [one]) != seed_of(0, [two]) != seed_of(1, [two])
    assert seed_of(0, [one]) == pytest.approx(seed_of(0, [one])) and 0 <= seed_of(0, [one]) < 2**32
