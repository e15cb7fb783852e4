"""Credit of a trajectory's turns, by hand: who competes with whom, what is divided by what, and what a row
weighs."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rft.data.history import History, Message
from rft.data.question import Question
from rft.train.advantages import EPSILON, advantages
from rft.train.memories import MemoryArm, weigh
from rft.train.micro_batch import pack
from rft.train.rollout import Rollout, Turn

HISTORY = History("h", "1", "chat.json", (Message("user", "hello"),))
LABELS = {"kind": "plain"}
Q1 = Question("q-1", 1, "1", "h", "one?", ("a", "b", "c", "d"), "a", LABELS)
Q2 = replace(Q1, id="q-2", row=2)


def turn(reward=math.nan, question=None, prompt=2, completion=3) -> Turn:
    return Turn(
        list(range(prompt)),
        list(range(10, 10 + completion)),
        [-1.0] * completion,
        question=question,
        scores=[reward],
        reward=reward,
    )


def assign_advantages(group, scale):
    """The advantages of two memories and their answers."""
    args = SimpleNamespace(
        num_generations=2,
        answers_per_memory=len(group[0].answers) // 2,
        scale_rewards="group" if scale else "none",
        multi_objective_aggregation="sum_then_normalize",
        turn_weighting="token",
    )
    arm = MemoryArm.__new__(MemoryArm)
    arm.args = args
    for contest in arm.contests(group, [1.0], []):
        contest.decide(args, list)


def two_memories(first, second, bonus=(0.0, 0.0)) -> list[Rollout]:
    """Two rollouts of two updates, with these (question, reward) answers."""
    return [
        Rollout(
            HISTORY,
            questions=[Q1, Q2],
            updates=[turn(), turn()],
            answers=[turn(reward, question) for question, reward in answered],
            bonus=extra,
        )
        for answered, extra in zip((first, second), bonus, strict=True)
    ]


def test_two_turns_by_hand():
    """Memory A answers q1 right, q2 right; memory B q1 right, q2 wrong. R_A = 1, R_B = 1/2, mean 3/4: updates
    get +1/4 and -1/4. Answers to q1 are both right: 0. Answers to q2: 1 and 0, mean 1/2: +1/2 and -1/2."""
    group = two_memories([(Q1, 1.0), (Q2, 1.0)], [(Q1, 1.0), (Q2, 0.0)])
    assign_advantages(group, scale=False)
    assert [[t.advantage for t in trajectory.turns] for trajectory in group] == [
        [0.25, 0.25, 0.0, 0.5],
        [-0.25, -0.25, 0.0, -0.5],
    ]


def test_the_same_divided_by_deviation():
    """R: 1 and 1/2, deviation (n - 1) sqrt(2 * (1/4)^2) = 0.35355; q2: 1 and 0, deviation 0.70711; both leave
    0.70711, less epsilon."""
    group = two_memories([(Q1, 1.0), (Q2, 1.0)], [(Q1, 1.0), (Q2, 0.0)])
    assign_advantages(group, scale=True)
    updates, answers = 0.25 / (math.sqrt(0.125) + EPSILON), 0.5 / (math.sqrt(0.5) + EPSILON)
    for trajectory, sign in zip(group, (1, -1), strict=True):
        assert [t.advantage for t in trajectory.turns] == pytest.approx(
            [sign * updates] * 2 + [0.0, sign * answers], abs=1e-12
        )


def test_several_answers_compete_within_their_memory():
    """A: q1 right and wrong, q2 right twice; B: all wrong. R_A = 3/4, R_B = 0; answers of q1 from A: +1/2 and
    -1/2, all others 0."""
    group = two_memories(
        [(Q1, 1.0), (Q1, 0.0), (Q2, 1.0), (Q2, 1.0)], [(Q1, 0.0), (Q1, 0.0), (Q2, 0.0), (Q2, 0.0)]
    )
    assign_advantages(group, scale=False)
    assert [[t.advantage for t in trajectory.turns] for trajectory in group] == [
        [0.375, 0.375, 0.5, -0.5, 0.0, 0.0],
        [-0.375, -0.375, 0.0, 0.0, 0.0, 0.0],
    ]


def test_a_bonus_is_the_memorys_and_not_the_answers():
    group = two_memories([(Q1, 1.0), (Q2, 0.0)], [(Q1, 1.0), (Q2, 0.0)], bonus=(0.5, 0.0))
    assign_advantages(group, scale=False)
    assert [t.advantage for t in group[0].turns] == [0.25, 0.25, 0.0, 0.0]


def test_what_could_not_be_scored_counts_for_nothing():
    group = two_memories([(Q1, math.nan), (Q2, 1.0)], [(Q1, 1.0), (Q2, 0.0)])
    assert [t.reward for t in group] == [1.0, 0.5]
    assign_advantages(group, scale=False)
    assert [[t.advantage for t in trajectory.answers] for trajectory in group] == [[0.0, 0.5], [0.0, -0.5]]
    nothing = two_memories([(Q1, math.nan), (Q2, math.nan)], [(Q1, 1.0), (Q2, 0.0)])
    assign_advantages(nothing, scale=True)
    assert [t.advantage for t in nothing[0].turns] == [0.0] * 4


def test_advantages_are_trls():
    from trl.trainer.utils import nanstd

    tensor = torch.tensor([0.0, 1.0, 1.0, 0.25])
    expected = (tensor - tensor.mean()) / (nanstd(tensor) + 1e-4)
    assert torch.equal(advantages(tensor[:, None], [1.0], 4), expected)
    equal = torch.tensor([[0.7]] * 5)
    assert advantages(equal, [1.0], 5).tolist() == [0.0] * 5


def test_functions_are_normalized_before_they_are_added_if_asked():
    """Two groups of two; the second function is ten times as large and counts the same."""
    scores = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 10.0], [0.0, 0.0]], dtype=torch.float64)
    found = advantages(scores, [1.0, 1.0], 2, aggregation="normalize_then_sum")
    assert found.tolist() == pytest.approx([-0.8659, 0.8659, 0.8659, -0.8659], abs=1e-3)


@pytest.mark.parametrize(
    ("weighting", "shares"),
    [
        # one trajectory of turns with 2 and 4 tokens, one of a turn with 2: 8 tokens, 3 turns, 2 trajectories
        ("token", [2 / 8, 4 / 8, 2 / 8]),
        ("turn", [1 / 3, 1 / 3, 1 / 3]),
        ("trajectory", [1 / 4, 1 / 4, 1 / 2]),
    ],
)
def test_every_token_turn_or_trajectory_counts_the_same(weighting, shares):
    found = [
        Rollout(HISTORY, updates=[turn(completion=2), turn(completion=4)]),
        Rollout(HISTORY, updates=[turn(completion=2)]),
    ]
    for rollout in found:
        for one in rollout.turns:
            one.weight, one.share = weigh(rollout, one, weighting)
    batch = pack([one for rollout in found for one in rollout.turns], pad_token_id=0)
    weights_BC = batch["weights"] * batch["completion_mask"]
    assert (weights_BC.sum(1) / weights_BC.sum()).tolist() == pytest.approx(shares, abs=1e-7)


def test_rows_are_the_turns_padded():
    turns = [turn(prompt=1, completion=2), turn(prompt=3, completion=1)]
    turns[0].advantage = 0.5
    batch = pack(turns, pad_token_id=99)
    assert batch["prompt_ids"].tolist() == [[99, 99, 0], [0, 1, 2]] and batch["prompt_mask"].tolist() == [
        [0, 0, 1],
        [1, 1, 1],
    ]
    assert batch["completion_ids"].tolist() == [[10, 11], [10, 99]] and batch["completion_mask"].tolist() == [
        [1, 1],
        [1, 0],
    ]
    assert batch["advantages"].tolist() == [0.5, 0.0]
    assert batch["sampling_per_token_logps"].tolist() == [[-1, -1], [-1, 0]]
