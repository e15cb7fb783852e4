"""Parts of `rft questions write` that need no LLM: what findings add up to, who is held out, lengths."""

import itertools

import pytest

from rft.data.faults import question_faults
from rft.data.history import History, Message
from rft.errors import DataError
from rft.llm.drafts import WORDS
from rft.llm.votes import lettered
from rft.tasks.questions.asking import AROUND, Draft, _shown
from rft.tasks.questions.findings import Finding
from rft.tasks.questions.people import check_share, split_people
from rft.tasks.questions.preferences import Preference, Preferences
from rft.tasks.questions.writer import RAREST_FIRST, _drawn, _ranks


def finding(kind: str, wish: str, message: int, topic: str = "Tea") -> Finding:
    return Finding(
        kind=kind, topic=topic, statement=f"Likes {wish}", keyword=wish, message=message, quote=f"like {wish}"
    )


STORIES = {
    "told": ([("revealed", "mint tea")], ("plain", "Likes mint tea", ""), ""),
    "told twice": ([("revealed", "mint tea")] * 2, ("plain", "Likes mint tea", ""), "it is more evidence"),
    "another with this topic": (
        [("revealed", "mint tea"), ("revealed", "old cups")],
        ("plain", "Likes mint tea", ""),
        "another preference has this topic",
    ),
    "changed": (
        [("revealed", "mint tea"), ("updated", "sage tea")],
        ("changed", "Likes sage tea", "Likes mint tea"),
        "",
    ),
    "changed in one message": ([("updated", "sage tea")], ("changed", "Likes sage tea", ""), ""),
    "withdrawn": ([("revealed", "mint tea"), ("withdrawn", "tea")], ("withdrawn", "Likes mint tea", ""), ""),
    "withdrawn after a change": (
        [("revealed", "mint tea"), ("updated", "sage tea"), ("withdrawn", "tea")],
        ("withdrawn", "Likes sage tea", ""),
        "",
    ),
    "withdrawn, never told": ([("withdrawn", "mint tea")], ("withdrawn", "Likes mint tea", ""), ""),
    "withdrawn twice": (
        [("withdrawn", "mint tea")] * 2,
        ("withdrawn", "Likes mint tea", ""),
        "it was withdrawn",
    ),
    "taken up again": (
        [("revealed", "mint tea"), ("withdrawn", "tea"), ("revealed", "mint tea")],
        ("changed", "Likes mint tea", "Likes mint tea"),
        "",
    ),
    "somebody else's": ([("others", "mint tea")], ("others", "Likes mint tea", ""), ""),
}


@pytest.mark.parametrize("name", STORIES)
def test_a_preference_is_what_the_last_message_says(name):
    told, (kind, text, before), why = STORIES[name]
    found = Preferences()
    reasons = [found.add(finding(k, wish, 2 * i, " tea" if i else "Tea")) for i, (k, wish) in enumerate(told)]
    (preference,) = found.all
    assert (preference.kind, preference.text, preference.before) == (kind, text, before)
    assert preference.evidence == [2 * i for i in range(len(told))]
    assert preference.keyword in preference.text and preference.used == (kind in ("plain", "changed"))
    assert reasons[-1].startswith(why) if why else not reasons[-1]
    assert found.known() == [{"topic": "Tea", "kind": kind, "statement": text}]


def test_somebody_elses_preference_on_a_topic_of_the_users_own_is_unclear():
    found = Preferences()
    for one in (
        finding("others", "mint tea", 0),
        finding("revealed", "sage tea", 2),
        finding("others", "a", 4, "x"),
    ):
        assert found.add(one) == ""
    assert [p.text for p in found.drop_unclear()] == ["Likes mint tea"]
    assert [p.text for p in found.all] == ["Likes sage tea", "Likes a"]


@pytest.mark.parametrize(
    ("people", "share", "sizes"),
    [
        (1, 0.1, (1, 0, 0)),
        (2, 0.1, (1, 0, 1)),
        (3, 0.1, (1, 1, 1)),
        (40, 0.1, (34, 2, 4)),
        (3, 0.9, (1, 0, 2)),
        (5, 0, (5, 0, 0)),
    ],
)
def test_people_are_held_out_as_a_whole(people, share, sizes):
    names = {f"user{n}" for n in range(people)}
    splits = split_people(names, share, 3)
    assert splits.keys() == names and splits == split_people(sorted(names), share, 3)
    assert tuple(list(splits.values()).count(name) for name in ("train", "val", "benchmark")) == sizes
    if people == 40:
        assert splits != split_people(names, share, 4)


def test_one_person_is_refused_before_anything_is_paid():
    with pytest.raises(DataError, match="ana is the only user, so nobody can be held out"):
        check_share(0.1, {"ana"})
    check_share(0, {"ana"})


def test_the_gold_is_never_the_longest_more_often_than_chance():
    for seed, count in itertools.product("abc", range(1, 60)):
        ranks = [_ranks(seed)[k % 4] for k in range(count)]
        assert ranks.count(len(WORDS) - 1) == count // 4 and ranks.count(0) == (count + 1) // 4
    assert len({tuple(_ranks(str(seed))) for seed in range(9)}) == 2


def test_rarer_kinds_are_asked_about_first():
    preferences = [
        Preference(kind, f"t{i}", "", "") for i, kind in enumerate([*RAREST_FIRST[::-1]] * 2 + ["plain"] * 9)
    ]
    kinds = [p.kind for p in _drawn(preferences, "0")]
    assert kinds == [*RAREST_FIRST, *RAREST_FIRST, *["plain"] * 9]
    assert [p.topic for p in _drawn(preferences, "0")] != [p.topic for p in _drawn(preferences, "1")]


def test_successive_judges_see_the_gold_under_four_letters():
    draft = Draft("What now?", "gold", ["one", "two", "three"])
    shown = [lettered(draft, "seed", vote) for vote in range(4)]
    assert sorted(gold for _, gold in shown) == [*"abcd"]
    assert all(options[gold] == "gold" and len(set(options.values())) == 4 for options, gold in shown)


def test_judges_see_a_long_message_around_its_quote():
    text = "a " * 3000 + "I  like\nmint tea." + " b" * 3000
    history = History("", "", "", (Message("user", text), Message("user", "I like mint tea.")))
    long, short = _shown(
        Preference("plain", "tea", "", "", quotes={1: "like mint", 0: "I like mint tea."}), history
    )
    assert (long["index"], short["index"], short["text"]) == (0, 1, "I like mint tea.")
    assert "I  like\nmint tea." in long["text"] and len(long["text"]) < 2 * AROUND + 40


@pytest.mark.parametrize(
    ("query", "gold", "fault"),
    [
        ("What to drink?", "Mint tea, hot.", ""),
        ("Is Mint  Tea good?", "Mint tea, hot.", "the query tells the preference"),
        ("What to drink?", "Mint tea\x07.", "a control character"),
        ("What to drink?", "Mint tea\ud800.", "a control character"),
        ("What to drink?", "Mint tea, ask jo@mail.com.", "a personal item"),
        ("What to drink?", "Mint tea, ask jo@example.com.", ""),
        ("What to drink?", " ", "an empty text"),
        ("What to drink?", "Sure, mint tea.", "an option begins with a preamble"),
    ],
)
def test_faults_of_a_question(query, gold, fault):
    draft = Draft(query, gold, ["Milk.", "Wine.", "Beer."])
    faults = question_faults(draft, ["Likes mint tea"], "mint tea", used=True)
    assert [f for f in faults if f.startswith(fault)] if fault else not faults
