"""Rewards of free answers: SQuAD's normalization and F1, abstention, and the gate."""

import pytest

import reward
from reward.free_text import ABSTENTIONS, abstains, normalized

THOUGHT = "<think>They said so.</think>"


def score(function, said, accepted=(), abstain=False, **columns):
    return function([THOUGHT + said], [accepted], [abstain], **columns)[0]


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1"),
    [
        ("Paris", ["paris"], 1.0, 1.0),
        ("The  Paris!", ["paris"], 1.0, 1.0),
        (r"\boxed{Paris}", ["paris"], 1.0, 1.0),
        ("in Paris", ["paris"], 0.0, 2 / 3),
        ("two three", ["one two", "two three four"], 0.0, 0.8),
        ("London", ["paris"], 0.0, 0.0),
        ("tea tea tea", ["tea"], 0.0, 0.5),
        ("the", ["a"], 1.0, 1.0),
    ],
)
def test_an_answer_is_compared_with_the_best_accepted_text(answer, accepted, exact, f1):
    assert score(reward.exact_match, answer, accepted) == exact
    assert score(reward.token_f1, answer, accepted) == pytest.approx(f1)


def test_only_a_reasoned_answer_earns_something():
    for completion in ("Paris", "<think>Paris", "<think></think>Paris", "<think>Paris</think>", ""):
        assert reward.token_f1([completion], [["Paris"]], [False]) == [0.0]
        assert reward.exact_match([completion], [["Paris"]], [False]) == [0.0]
    assert reward.exact_match(["<think>x</think>It is not known."], [[]], [True]) == [1.0]


@pytest.mark.parametrize("phrase", ABSTENTIONS)
def test_every_phrase_of_abstention_counts(phrase):
    assert normalized(phrase) == phrase and abstains(f"Sorry, that is {phrase.upper()}.")
    assert score(reward.token_f1, f"Well, {phrase}.", abstain=True) == 1.0


def test_a_made_up_answer_is_no_abstention():
    assert score(reward.token_f1, "She is called Eva.", abstain=True) == 0.0
    assert score(reward.token_f1, "That cannot be known.", ["Eva"]) == 0.0
    assert not abstains("An unknowing answer") and abstains("I don't know.") and abstains("I don’t know")


def test_rows_of_another_kind_are_not_scored():
    assert score(reward.token_f1, "b", answer=["b"]) is None
    assert score(reward.exact_match, "b") is None
    assert reward.personamem([THOUGHT + r"\boxed{b}"], [None]) == [None]


@pytest.mark.parametrize("count", [2, 3, 6, 26])
def test_letters_go_as_far_as_the_options(count):
    options = [f"option number {i}" for i in range(count)]
    last, beyond = chr(96 + count), chr(97 + count)
    said = THOUGHT + rf"\boxed{{{last}}}"
    assert reward.personamem([said], [last], [options], "contradiction") == [1.0]
    reward.self_check(last, options=options)
    assert reward.mcq_letter(said, count) == last
    if count < 26:
        assert reward.mcq_letter(THOUGHT + rf"\boxed{{{beyond}}}", count) is None
        with pytest.raises(ValueError, match="is not a letter"):
            reward.personamem([said], [beyond], [options])
