"""The audit's trained guesser and its search for personal items."""

import random
import zlib

import pytest

from reward.mcq import LETTERS
from rft.data.private import plausible_items, replaced
from rft.data.probe import WORDS, choices
from rft.data.question import Question
from rft.data.rules import MEASURES, PROBE, Asked, bar, cells, scores, strongest
from rft.tasks.audit import shortcuts, table_rows, telling_rules

LABELS = {
    "pref_type": "",
    "who": "",
    "updated": False,
    "scenario": "",
    "distance": None,
    "preference": "",
    "prev_pref": "",
    "sensitive": False,
}


def questions(count: int, gold: object = None, personas: int = 20) -> list[Question]:
    """Options of random words; `gold(options, rng)` chooses the gold, by default evenly."""
    rng, made = random.Random(0), []
    for row in range(count):
        options = tuple(
            " ".join(rng.choice("sun rain fog wind snow ice".split()) for _ in range(rng.randint(4, 9)))
            + f" {n}."
            for n in rng.sample(range(1000), 4)
        )
        index = gold(options, rng) if callable(gold) else rng.randrange(4)
        made.append(
            Question(
                f"q-{row}",
                row,
                str(row % personas),
                "h",
                "What now?",
                options,
                LETTERS[index],
                LABELS,
                task="personamem",
            )
        )  # type: ignore[arg-type]
    return made


def test_fair_options_stay_at_chance() -> None:
    report = shortcuts(questions(600))
    assert telling_rules(report) == [] and abs(report["rules"][PROBE] - 0.25) < 0.07


def test_a_word_that_gives_the_gold_away_is_learned() -> None:
    def gold(options: tuple[str, ...], rng: random.Random) -> int:
        rainy = [i for i, option in enumerate(options) if "rain" in option]
        return rng.choice(rainy or range(4))

    found = shortcuts(questions(600, gold))
    assert found["rules"][PROBE] > 0.4 and found["strongest"]["telling"]
    assert any(rule.startswith(PROBE) for rule in telling_rules(found))


def test_a_telling_length_is_found_by_rule_and_probe() -> None:
    found = shortcuts(questions(300, lambda options, _: max(range(4), key=lambda i: len(options[i]))))
    assert found["rules"]["longest option"] > 0.9 and found["rules"][PROBE] > 0.8


def test_too_few_questions_for_a_probe() -> None:
    few = shortcuts(questions(19))
    assert PROBE not in few["rules"] and table_rows([few])[f"score of: {PROBE}"] == ["too few rows"]


def test_the_probe_answers_only_for_people_it_was_not_trained_on() -> None:
    """Each of five people is always shown the same four words, of which the first is gold, and shares them
    with nobody."""
    rng, asked, words = random.Random(0), [], dict[int, str]()
    while len(words) < 20:  # each a feature of its own
        word = "".join(rng.choices("bcdfghklmn", k=5))
        words.setdefault(zlib.crc32(word.encode()) % WORDS, word)
    for row in range(400):
        person = row // 5 % 5
        mine = list(words.values())[4 * person :][:4]
        options = rng.sample(mine, 4)
        asked.append(Asked(str(person), "", options, options.index(mine[0])))
    right = [choice == question.gold for choice, question in zip(choices(asked) or [], asked, strict=True)]
    assert sum(right) / len(right) < 0.35, "what it knows of the others is of no use"
    # then folds are of questions, and the words are known
    by_one = [question._replace(persona_id="all") for question in asked]
    assert choices(by_one) == [question.gold for question in by_one]


def test_the_option_whose_text_stands_in_many_questions_is_a_rule() -> None:
    """What broke us: one text, "Something quite new.", is gold in every withdrawn question, and nowhere
    else."""
    rng, made = random.Random(0), []
    for row in range(1200):
        options = [
            *(
                "".join(rng.choices("bcdfghklmn", k=5)) + " " + "".join(rng.choices("bcdfghklmn", k=5))
                for _ in range(3)
            ),
            "quite novel",
        ]
        generic = row % 4 == 0
        gold = options[3] if generic else options[rng.randrange(3)]
        rng.shuffle(options)
        labels = LABELS | {
            "pref_type": "ask_to_forget" if generic else "neutral_preferences",
            "who": "self",
            "updated": generic,
            "scenario": "chat_message",
            "distance": 5,
        }
        made.append(
            Question(
                f"q-{row}",
                row,
                str(row // 8),
                "h",
                "What now?",
                (*options,),
                LETTERS[options.index(gold)],
                labels,
                task="personamem",
            )
        )  # type: ignore[arg-type]
    audit = shortcuts(made)
    assert not audit["strongest"]["telling"] and audit["strongest"]["n"] == 1200, (
        "over all questions it is at chance"
    )
    cell = audit["by"]["pref_type"]["ask_to_forget"]
    assert (cell["rule"], cell["score"], cell["n"], cell["telling"]) == (
        "the most common option text",
        1.0,
        300,
        True,
    )
    neutral = audit["by"]["pref_type"]["neutral_preferences"]["rules"]
    assert neutral["the most common option text"] == 0.0
    assert neutral["the least common option text"] == pytest.approx(1 / 3, abs=0.05)
    assert set(audit["by"]) == {
        "kind",
        "pref_type",
        "who",
        "updated",
        "scenario",
        "distance",
        "pref_type_who",
    }
    assert "ask_to_forget, self" in audit["by"]["pref_type_who"] and set(audit["by"]["distance"]) == {"1-127"}
    (of_type,) = [said for said in telling_rules(audit) if said.startswith("by pref_type:")]
    assert (
        "ask_to_forget (the most common option text 100.0% of 300)" in of_type
        and "neutral_preferences (" in of_type
    )
    small = shortcuts(questions(20))  # no category has enough of them
    shown = table_rows([small, audit])
    described = "ask_to_forget: the most common option text 100.0% of 300, telling"
    assert shown["strongest by pref_type"] == ["\N{EN DASH}", described]
    assert not [label for label in table_rows([small]) if label.startswith("strongest by")]


def test_the_text_that_is_most_often_gold_is_learned_from_other_people() -> None:
    def asked(person: int, gold: str) -> Asked:
        options = ["tea", "milk", "mate", f"new {person}"]
        return Asked(str(person), "", options, options.index(gold))

    rule = "the option text most often gold"
    assert (
        scores([asked(person, "milk" if person < 8 else "tea") for person in range(10)])[rule]
        == [1.0] * 8 + [0.0] * 2
    )
    alone = scores([asked(person, f"new {person}") for person in range(10)])
    assert alone[rule] == [1.0] * 10, "a text never seen counts as one at chance, those never gold as less"


def test_cells_are_large_and_have_a_name() -> None:
    values = ["a"] * 300 + ["b"] * 299 + [""] * 400 + ["unknown"] * 400
    assert {value: len(rows) for value, rows in cells(values).items()} == {"a": 300}


def test_the_best_of_many_rules_is_judged_as_such() -> None:
    assert bar(100_000, 20, 0.25) == pytest.approx(0.28), "three points at least"
    assert bar(300, 1, 0.25) == pytest.approx(0.25 + 3 * (0.25 * 0.75 / 300) ** 0.5)
    assert bar(300, 20, 0.25) == pytest.approx(0.25 + 3.818 * (0.25 * 0.75 / 300) ** 0.5, abs=1e-4)
    rng, telling = random.Random(0), 0
    # so many times the best of 20 guesses on 300 questions: about one in 740 is above the bar
    for _ in range(300):
        found = {f"guess {i}": [float(rng.random() < 0.25) for _ in range(300)] for i in range(20)}
        telling += strongest(found, range(300), [4] * 300).telling
    assert telling <= 3


def test_overlap_with_the_query_is_a_rule() -> None:
    options = ("Take the blue kite.", "Take a walk.", "Stay in.", "Read on.")
    question = Question("q-0", 0, "1", "h", "Which kite should I take, the blue one?", options, "a", LABELS)
    report = shortcuts([question])
    assert (
        report["rules"]["most words of the query"] == 1 and report["rules"]["fewest words of the query"] == 0
    )
    assert {rule for pair in MEASURES for rule in pair} < set(report["rules"])


TOKEN = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
PEM = "-----BEGIN {0}PRIVATE KEY-----\nMIIEvQIBADANBg+/\nkqhkiG9w0=\n-----END {0}PRIVATE KEY-----"
SOMEBODYS = {
    "email": ["me@gmail.com"],
    "phone": ["(212) 867-5309", "+1 212-867-5309"],
    "social security": ["123-45-6789", "219 09 9999"],
    "card": [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111111111111111",
        "5555555555554444",
        "2223003122003222",
        "3782 822463 10005",
        "3782-822463-10005",
        "378282246310005",
        "6011111111111117",
        "6500000000000002",
        "3530111333300000",
    ],
    "account": [
        "DE89 3704 0044 0532 0130 00",
        "DE44 5001 0517 5407 3249 31",
        "CH93 0076 2011 6238 5295 7",
        "AT61 1904 3002 3457 3201",
        "DE89370400440532013000",
        "GB29NWBK60161331926819",
    ],
    "key": [
        "sk-abcdefghijklmnop",
        *(f"gh{kind}_{TOKEN}" for kind in "pousr"),
        f"github_pat_11ABCDEFG0_{TOKEN}",
        f"glpat-{TOKEN[:20]}",
        "AKIAABCDEFGHIJKLMNOP",
        "ASIAABCDEFGHIJKLMNOP",
        f"hf_{TOKEN}",
        f"xoxb-123456789012-{TOKEN}",
        f"AIza{TOKEN[:35]}",
        f"sk_live_{TOKEN}",
        f"rk_live_{TOKEN}",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        PEM.format(""),
        PEM.format("RSA "),
        PEM.format("OPENSSH "),
    ],
}


@pytest.mark.parametrize(("kind", "item"), [(kind, item) for kind in SOMEBODYS for item in SOMEBODYS[kind]])
def test_items_that_could_be_somebodys(kind: str, item: str) -> None:
    """Each is found and replaced whole."""
    assert item in plausible_items(f"It is {item}, I think.")
    assert replaced(f"It is {item} I think.")[0] == f"It is [{kind}] I think."


@pytest.mark.parametrize(
    "text",
    [
        "me@example.com",
        "x@mail.example.org",
        "(212) 555-0134",
        "000-12-3456",
        "000 12 3456",
        "987-65-4320",
        "0000 0000 1234 1234",
        "0000000012341234",
        "XX00 TEST 0000 1234 1234",
        "XX00TEST000012341234",
        "sk-EXAMPLE-12345678",
        "AKIAIOSFODNN7EXAMPLE",
        "in 2024 about 1,000 - 2,000 people",
        "555",
        "10 15 20 25",
        "1714000000000",  # milliseconds since 1970
        "1714000000000000",  # microseconds
        "20240501120000",
        "550e8400-e29b-41d4-a716-446655440000",
        "4111111111111112",  # its check digit is wrong
        "1234567890123452",  # its check digit is right, but nobody issues such cards
        "0.4111111111111111",
        "112-3941234-9283465",  # a number of an order
        "DE89370400440532013001",
        "AB12CDEFGHIJKLMNOP",
        "hf_hub_download_of_a_large_file",
        "the risk-averse-investor",
    ],
)
def test_items_that_are_nobodys(text: str) -> None:
    assert plausible_items(f"It is {text}, I think.") == []
