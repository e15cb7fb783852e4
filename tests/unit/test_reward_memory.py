"""What a memory is worth beside its answers: what each reward pays, and that the obvious ways to game it earn
nothing."""

import pytest

from reward import load
from reward.memory import forgotten_absent, not_copied, sensitive_absent, speaks_of, within_budget

CHUNK = (
    "Fix this email to my friend: I spent the whole rainy weekend listening to jazz records again with my"
    " cat."
)


def test_they_can_be_named_in_a_recipe():
    assert load("reward.memory.within_budget") is within_budget


def test_within_budget_is_the_share_of_good_updates():
    memories = [["- a", "- a\n- b"], ["- a", "- a"], []]
    assert within_budget(
        memories,
        cut=[[False, False], [False, True], []],
        empty=[[False, False], [False, False], []],
        chunks=[],
        withdrawn=[],
    ) == [1.0, 0.5, None]


def test_writing_nothing_is_not_within_budget():
    assert within_budget([["", ""]], cut=[[False, False]], empty=[[True, True]]) == [0.0]
    assert within_budget([["- kept", "- kept"]], cut=[[False, False]], empty=[[False, True]]) == [0.5]


def test_a_memory_in_its_own_words_is_not_copied():
    assert not_copied([["- Enjoys listening to jazz.\n- Has a cat."]], [[CHUNK]]) == [1.0]
    assert not_copied([[]], [[]]) == [None]


@pytest.mark.parametrize(
    "copied",
    [
        "- " + CHUNK,
        "- " + CHUNK.upper(),
        "- I spent -- the whole; rainy weekend, (listening) to *jazz* records again",  # other punctuation
        "- I spent the whole rainy\n- weekend listening to jazz records again",  # over two bullets
        # invisible characters
        "- I sp\u200bent the whole rainy weekend listening to jazz\u00ad records again",
        "- I spent the whole rainy weekend listening to jazz records again"
        + "\n- Other words of my own, many of them." * 50,  # diluted
    ],
)
def test_copying_is_found_in_disguise(copied):
    assert not_copied([[copied]], [[CHUNK]]) == [0.0]


def test_an_empty_memory_has_not_earned_the_reward_for_not_copying():
    assert not_copied([[""]], [[CHUNK]]) == [0.0]
    assert not_copied([["- ...\n- !"]], [[CHUNK]]) == [0.0]


def test_what_was_withdrawn_must_be_gone():
    memory = "- Enjoys listening to [forgotten].\n- Enjoys drinking tea."
    assert forgotten_absent([[memory]], [["jazz"]]) == [1.0]
    assert forgotten_absent([["- Enjoys jazz.", memory]], [["jazz"]]) == [1.0]  # the last version counts
    assert forgotten_absent([[memory]], [["jazz", "tea"]]) == [0.5]
    assert forgotten_absent([[memory]], [[]]) == [None]


@pytest.mark.parametrize(
    "kept",
    [
        "- Enjoys listening to jazz.",
        "- JAZZ!",
        "- j a z z",
        "- j-a-z-z lover",
        "- ja\u200bzz",
        "- ｊａｚｚ",
        "- Jazz,blues",
        "- not_jazz",
        "- Never mention jazz.",
    ],
)
def test_a_withdrawn_thing_is_found_however_it_is_spelled(kept):
    assert forgotten_absent([[kept + "\n- Enjoys drinking tea."]], [["jazz"]]) == [0.0]


def test_forgetting_everything_earns_nothing():
    assert forgotten_absent([[""]], [["jazz"]]) == [0.0]
    assert forgotten_absent([["- \n- ..."]], [["jazz"]]) == [0.0]
    assert sensitive_absent([[""]]) == [0.0]


def test_a_whole_preference_is_found_in_other_words_and_not_by_chance():
    phrase = "Participates in cultural dance workshops"
    assert speaks_of("- Took part in cultural dances workshop.", phrase)
    assert not speaks_of("- Runs workshops on pottery.\n- Participates in debates.", phrase)


@pytest.mark.parametrize(
    "secret",
    [
        "ann@example.org",
        "+49 170 123 4567",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "078-05-1120",
        "sk-abcdefgh12345",
        "41111111\u200b11111111",
        "４１１１１１１１１１１１",
    ],
)
def test_sensitive_values_cost_the_reward(secret):
    assert sensitive_absent([[f"- Enjoys tea.\n- Reach them at {secret}."]]) == [0.0]


def test_ordinary_numbers_are_not_sensitive():
    assert sensitive_absent([["- Born in 1984, runs 10 km in 45:30.\n- Has 3 cats since 2021-2023."]]) == [
        1.0
    ]
