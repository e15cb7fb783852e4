"""What the policy has done with one unit of data: the record that every part of the loop reads or completes.

    histories   Rollout(history, answers=[answer])                         one turn: a question over a history
    memories    Rollout(history, updates=[u1 .. uT], answers=[a1 .. aQ])   a memory is written, then asked

Invariant: rewards and advantages are final while a rollout is still one record. Only then do its turns become
rows of a micro-batch (`rft.train.micro_batch`), each turn one row.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch

from reward import Reading
from rft.data.history import History
from rft.data.question import Question
from rft.memory.chunks import Chunk
from rft.memory.text import Update

Completion = tuple[list[int], list[float] | None]
"""Token ids, and their log-probs in the sampler if it gives them."""
Gather = Callable[[list[Any]], list[Any]]
"""Concatenates the lists of all ranks; all ranks call it together."""


@dataclass
class Turn:
    """One prompt and its completion.

    Attributes:
        prompt: Token ids. Turns with the same prompt hold the same list.
        completion: Token ids.
        logps: Log-probs of the completion's tokens in the sampler.
        question: The question of an answer; None for an update.
        update: The result of an update; None for an answer.
        text: The text of an answer.
        reading: How the letter and the words of an answer were read, if they matter to its rewards.
        extra: What reward functions say about an answer in the table of completions.
        scores: What each reward function gave an answer; NaN: not scored.
        reward: The weighted sum of the scores; NaN if all are.
        advantage: Advantage of every token of the completion.
        weight: Weight of every token in a loss that adds up tokens.
        share: Weight of the turn in a loss that is a mean over rows.
    """

    prompt: list[int]
    completion: list[int]
    logps: list[float] | None
    question: Question | None = None
    update: Update | None = None
    text: str = ""
    reading: Reading | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)
    reward: float = math.nan
    advantage: float = 0.0
    weight: float = 1.0
    share: float = 1.0


@dataclass
class Rollout:
    """All turns of one trajectory over one history.

    Attributes:
        history: The history.
        blind: Whether the policy did not get to see it.
        questions: What is asked.
        chunks: What updates read.
        memory: What they have written.
        memory_tokens: Its length; None if the policy reads the whole history.
        updates: One turn per chunk; [] if the policy reads the whole history.
        answers: The turns that answer `questions`.
        memory_scores: What each reward function for memories gave; NaN: not scored.
        bonus: The weighted sum of these.
    """

    history: History
    blind: bool = False
    questions: list[Question] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    memory: str = ""
    memory_tokens: int | None = None
    updates: list[Turn] = field(default_factory=list)
    answers: list[Turn] = field(default_factory=list)
    memory_scores: list[float] = field(default_factory=list)
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


def is_blind(seed: int, step: int, history_id: str, share: float) -> bool:
    """Whether a history is left out: the same for all its questions in a generation, on every rank, and in a
    resumed run."""
    return Random(f"{seed}-{step}-{history_id}").random() < share


def build_once(asked: Iterable[tuple[Hashable, Callable[[], list[int]]]]) -> list[list[int]]:
    """Returns a prompt for each (key, function that builds it). Equal keys get one list, built once, by which
    a micro-batch knows that its rows share a prompt."""
    prompts: dict[Hashable, list[int]] = {}
    return [prompts[key] if key in prompts else prompts.setdefault(key, build()) for key, build in asked]


def extra_columns(rollouts: Sequence[Rollout]) -> list[str]:
    """Returns the names of all columns that reward functions add to the table of completions."""
    return list(dict.fromkeys(name for r in rollouts for turn in r.answers for name in turn.extra))


def table(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    """Returns rows of scores as a float64 tensor."""
    return torch.tensor(rows, dtype=torch.float64)
