"""Memory trajectories and the advantages of their turns.

Invariant: rewards and advantages are final while a trajectory is one record. Only then are its turns expanded
to rows, each turn to exactly one.

    history ── update c1 ── update c2 ── ... ── update cT ── memory ─┬─ answer q1 (A times)
                                                                     └─ answer qQ (A times)

A memory serves all its questions, so an update is credited with the mean reward of all answers (and the
memory's own rewards), relative to the other trajectories of the same history. An answer is credited with its
own reward: relative to the other answers to the same question from the same memory if there are several (A >
1), otherwise to those from the other memories.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rft.data.history import History
from rft.data.question import Question
from rft.memory.chunks import Chunk
from rft.memory.text import Update

WEIGHTINGS = ("token", "turn", "trajectory")
EPSILON = 1e-4  # added to a group's deviation, as in TRL


@dataclass
class Turn:
    """One prompt and its completion.

    Attributes:
        prompt: Token ids.
        completion: Token ids.
        logps: Log-probs of the completion's tokens in the sampler.
        question: The question of an answer; None for an update.
        update: The result of an update; None for an answer.
        reward: Reward of an answer; NaN if it could not be scored.
        advantage: Advantage of every token of the completion.
    """

    prompt: list[int]
    completion: list[int]
    logps: list[float] | None
    question: Question | None = None
    update: Update | None = None
    reward: float = math.nan
    advantage: float = 0.0


@dataclass
class Trajectory:
    """All turns over one history. `bonus` is the weighted sum of the rewards of the memory itself."""

    history: History
    chunks: list[Chunk]
    questions: list[Question]
    memory: str = ""
    updates: list[Turn] = field(default_factory=list)
    answers: list[Turn] = field(default_factory=list)
    bonus: float = 0.0

    @property
    def turns(self) -> list[Turn]:
        """All updates, then all answers."""
        return [*self.updates, *self.answers]

    @property
    def reward(self) -> float:
        """The mean reward of the answers that could be scored, plus the bonus; NaN if there are none."""
        scored = [turn.reward for turn in self.answers if not math.isnan(turn.reward)]
        return sum(scored) / len(scored) + self.bonus if scored else math.nan


def advantages(rewards: Sequence[float], scale: bool) -> list[float]:
    """Computes the rewards of a group minus their mean, divided by their deviation (n - 1, plus `EPSILON`) if
    `scale`.

    A NaN reward is left out of the mean and the deviation; its advantage is 0.
    """
    scored = [reward for reward in rewards if not math.isnan(reward)]
    if len(scored) < 2:
        return [0.0] * len(rewards)
    mean = math.fsum(scored) / len(scored)
    deviation = math.sqrt(math.fsum((reward - mean) ** 2 for reward in scored) / (len(scored) - 1))
    return [
        0.0 if math.isnan(reward) else (reward - mean) / (deviation + EPSILON if scale else 1.0)
        for reward in rewards
    ]


def assign_advantages(group: Sequence[Trajectory], scale: bool) -> None:
    """Sets the advantage of every turn in a group: trajectories over one history that answer the same
    questions."""
    assert len({trajectory.history.id for trajectory in group}) == 1, "one history per group"
    for trajectory, advantage in zip(group, advantages([t.reward for t in group], scale), strict=True):
        for turn in trajectory.updates:
            turn.advantage = advantage
    for question in group[0].questions:
        answers = [[turn for turn in trajectory.answers if turn.question is question] for trajectory in group]
        several = len(answers[0]) > 1
        for compared in answers if several else [[turn for of_memory in answers for turn in of_memory]]:
            for turn, advantage in zip(
                compared, advantages([turn.reward for turn in compared], scale), strict=True
            ):
                turn.advantage = advantage


def token_weight(trajectory: Trajectory, turn: Turn, weighting: str) -> float:
    """Returns the weight of each token of a turn in the loss, which is divided by the sum of all weights.

    Args:
        trajectory: The trajectory of the turn.
        turn: The turn.
        weighting: What has the same weight: every token ("token"), every turn ("turn"), or every trajectory
            and, within it, every turn ("trajectory").
    """
    if weighting == "token":
        return 1.0
    return 1.0 / len(turn.completion) / (1 if weighting == "turn" else len(trajectory.turns))


def rows(
    trajectories: Sequence[Trajectory], weighting: str, pad_token_id: int, device: Any = "cpu"
) -> dict[str, torch.Tensor]:
    """Expands the turns to rows in TRL's format: prompts padded on the left, completions on the right (B
    rows, P and C columns).

    `tool_mask` contains each token's weight: TRL multiplies its mask of completion tokens by it, in the loss
    and in every mean.
    """
    pairs = [(trajectory, turn) for trajectory in trajectories for turn in trajectory.turns]
    turns = [turn for _, turn in pairs]
    P, C = (
        max(len(ids) for ids in column)
        for column in ([t.prompt for t in turns], [t.completion for t in turns])
    )
    prompt_ids_BP = torch.full((len(turns), P), pad_token_id)
    completion_ids_BC = torch.full((len(turns), C), pad_token_id)
    prompt_mask_BP, completion_mask_BC = torch.zeros_like(prompt_ids_BP), torch.zeros_like(completion_ids_BC)
    weights_BC, logps_BC = torch.zeros(len(turns), C), torch.zeros(len(turns), C)
    for b, (trajectory, turn) in enumerate(pairs):
        p, c = len(turn.prompt), len(turn.completion)
        prompt_ids_BP[b, P - p :], prompt_mask_BP[b, P - p :] = torch.tensor(turn.prompt), 1
        completion_ids_BC[b, :c], completion_mask_BC[b, :c] = torch.tensor(turn.completion), 1
        weights_BC[b, :c] = token_weight(trajectory, turn, weighting)
        if turn.logps is not None:
            logps_BC[b, :c] = torch.tensor(turn.logps)
    batch = {
        "prompt_ids": prompt_ids_BP,
        "prompt_mask": prompt_mask_BP,
        "completion_ids": completion_ids_BC,
        "completion_mask": completion_mask_BC,
        "tool_mask": weights_BC,
        "advantages": torch.tensor([t.advantage for t in turns]),
    }
    if all(turn.logps is not None for turn in turns):
        batch["sampling_per_token_logps"] = logps_BC
    return {key: tensor.to(device) for key, tensor in batch.items()}
