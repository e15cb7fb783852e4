"""The audit's trained guesser and its search for personal items."""

import random

import pytest

from rft.data.audit import RULES, lines, shortcuts, telling_rules
from rft.data.private import plausible_items
from rft.data.probe import probe
from rft.data.question import LETTERS, Labels, Question

LABELS = Labels("", "", False, "", None, "", "", False)


def questions(count: int, gold: object = None, personas: int = 20) -> list[Question]:
    """Options of random words; `gold(options, rng)` chooses the gold, by default evenly."""
    rng, made = random.Random(0), []
    for row in range(count):
        options = tuple(" ".join(rng.choice("sun rain fog wind snow ice".split()) for _ in range(rng.randint(4, 9))) + f" {n}."
                        for n in rng.sample(range(1000), 4))
        index = gold(options, rng) if callable(gold) else rng.randrange(4)
        made.append(Question(f"q-{row}", row, str(row % personas), "h", "What now?", options, LETTERS[index], LABELS))  # type: ignore[arg-type]
    return made


def test_fair_options_stay_at_chance() -> None:
    report = shortcuts(questions(600))
    assert telling_rules(report) == {} and abs(report["probe"]["accuracy"] - 0.25) < 0.07


def test_a_word_that_gives_the_gold_away_is_learned() -> None:
    def gold(options: tuple[str, ...], rng: random.Random) -> int:
        rainy = [i for i, option in enumerate(options) if "rain" in option]
        return rng.choice(rainy or range(4))

    found = shortcuts(questions(600, gold))
    assert found["probe"]["accuracy"] > 0.4 and "a trained probe on the options" in telling_rules(found)


def test_a_telling_length_is_found_by_rule_and_probe() -> None:
    found = shortcuts(questions(300, lambda options, _: max(range(4), key=lambda i: len(options[i]))))
    assert found["longest_rule"] > 0.9 and found["probe"]["accuracy"] > 0.8


def test_too_few_questions_for_a_probe() -> None:
    assert probe(questions(19)) is None and "too few rows" in lines(shortcuts(questions(19))).values()


def test_overlap_with_the_query_is_a_rule() -> None:
    options = ("Take the blue kite.", "Take a walk.", "Stay in.", "Read on.")
    question = Question("q-0", 0, "1", "h", "Which kite should I take, the blue one?", options, "a", LABELS)
    report = shortcuts([question])
    assert report["rules"]["most words of the query"] == 1 and report["rules"]["fewest words of the query"] == 0
    assert set(report["rules"]) == set(RULES)


@pytest.mark.parametrize(
    "text",
    ["me@gmail.com", "(212) 867-5309", "+1 212-867-5309", "123-45-6789", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00",
     "sk-abcdefghijklmnop"],
)
def test_items_that_could_be_somebodys(text: str) -> None:
    assert plausible_items(f"It is {text}, I think.")


@pytest.mark.parametrize(
    "text",
    ["me@example.com", "x@mail.example.org", "(212) 555-0134", "000-12-3456", "987-65-4320", "0000 0000 1234 1234",
     "XX00 TEST 0000 1234 1234", "sk-EXAMPLE-12345678", "in 2024 about 1,000 - 2,000 people", "555", "10 15 20 25"],
)
def test_items_that_are_nobodys(text: str) -> None:
    assert plausible_items(f"It is {text}, I think.") == []
