"""Rewards that go wrong: what is one row's fault is masked, what cannot be told apart stops the run."""

import asyncio
import time

import pytest

from rft.errors import TrainingError
from rft.train.rewards import FAILED, Reward

ROWS = {"completions": ["a", "b", "c", "d"], "question_id": ["q-0", "q-1", "q-2", "q-3"]}


def isolate_failures(function, seconds):
    """The function with its failures handled, called as usual."""
    reward = Reward(function, seconds)

    def call(**columns):
        return asyncio.run(reward(**columns))

    call.__name__ = reward.__name__
    return call


def score(completions, **_):
    return [float("abcd".index(c)) for c in completions]


def failing(what):
    """Goes wrong where it meets "c"."""

    def reward(completions, **_):
        if "c" in completions:
            what()
        return score(completions)

    return reward


def divide():
    raise ZeroDivisionError("division by zero")


def sleep():
    time.sleep(60)


def loop():
    while True:
        pass


@pytest.mark.parametrize("what", [divide, sleep, loop])
def test_a_row_that_raises_or_hangs_is_masked_and_named(what, caplog):
    logged = {}
    reward = isolate_failures(failing(what), seconds=0.8)
    assert reward.__name__ == "reward"
    assert reward(**ROWS, log_metric=logged.__setitem__) == [0.0, 1.0, None, 3.0]
    assert logged == {FAILED: 0.25}
    assert "question q-2 (row 2 of the batch)" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "good", [1.0]])
def test_what_is_no_number_is_masked(value, caplog):
    reward = isolate_failures(
        lambda completions, **_: [value if c == "b" else 1.0 for c in completions], seconds=5
    )
    assert reward(**ROWS) == [1.0, None, 1.0, 1.0]
    assert "q-1" in caplog.text


def test_what_is_right_passes_through_untouched(caplog):
    assert isolate_failures(score, seconds=5)(**ROWS) == [0.0, 1.0, 2.0, 3.0]
    assert (
        isolate_failures(lambda completions, **_: [None] * len(completions), seconds=5)(**ROWS) == [None] * 4
    )
    assert not caplog.text


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda completions, **_: [1.0] * 3, "returned 3 numbers for 4 completions"),
        (lambda completions, **_: 1.0, "returned 1.0 for 4 completions"),
        (lambda completions, **_: divide(), "failed in all 4 rows .ZeroDivisionError: division by zero"),
        (lambda completions, **_: [float("nan")] * 4, "failed in all 4 rows .returned nan"),
        (
            lambda completions, **_: [1.0] * 5 if len(completions) == 1 else divide(),
            "returned 5 numbers for 1 completion",
        ),
    ],
)
def test_what_cannot_be_told_apart_stops_the_run(reward, said):
    with pytest.raises(TrainingError, match=said):
        isolate_failures(reward, seconds=5)(**ROWS)


def test_an_asynchronous_reward_is_guarded_alike():
    async def judge(completions, **_):
        if "c" in completions:
            await asyncio.sleep(60)
        return score(completions)

    assert Reward(judge, seconds=0.8).is_async
    assert isolate_failures(judge, seconds=0.8)(**ROWS) == [0.0, 1.0, None, 3.0]

    async def down(completions, **_):
        raise ConnectionError("connection refused")

    with pytest.raises(TrainingError, match="failed in all 4 rows .ConnectionError: connection refused"):
        isolate_failures(down, seconds=5)(**ROWS)
