"""The arm that keeps a memory: a rollout writes a memory chunk by chunk and answers questions from it.

    history ── update c1 ── update c2 ── ... ── update cT ── memory ─┬─ answer q1 (A times)
                                                                     └─ answer qQ (A times)

A memory serves all its questions, so an update is credited with the mean reward of all answers (and the
memory's own rewards), relative to the other rollouts over the same history. An answer is credited with its
own reward: relative to the other answers to the same question from the same memory if there are several (A >
1), otherwise to those from the other memories.

Invariant: the prompt of an update contains no question.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler

from rft.data.question import Question
from rft.memory.agent import MemoryAgent
from rft.metrics.step import mean
from rft.tasks.base import Split
from rft.train.advantages import Contest
from rft.train.arm import Policy
from rft.train.memory_grpo_config import MemoryGRPOConfig
from rft.train.rollout import Rollout, Turn, build_once, extra_columns, is_blind, table


class MemoryArm:
    """Writes memories and asks questions about them.

    Args:
        split: Questions and histories.
        agent: Builds the prompts of updates and answers.
        args: Fields of the recipe.
    """

    def __init__(self, split: Split, agent: MemoryAgent, args: MemoryGRPOConfig):
        self.split, self.agent, self.args = split, agent, args
        self.questions = {question.id: question for question in split.questions}
        # of hundreds of turns, those without an advantage have neither gradient nor loss, unless of these
        self.keeps_flat_turns = bool(
            args.beta or args.top_entropy_quantile < 1 or args.entropy_coef or args.use_adaptive_entropy
        )

    def sampler(self, dataset: Any) -> Sampler[int]:
        """Returns TRL's order: a row is a history with its questions."""
        args = self.args
        return RepeatSampler(
            data_source=dataset,
            mini_repeat_count=args.num_generations,
            batch_size=args.generation_batch_size // args.num_generations,
            repeat_count=args.num_iterations * args.steps_per_generation,
            shuffle=args.shuffle_dataset,
            seed=args.seed,
        )

    def asked(self, unit: Mapping[str, Any]) -> list[Question]:
        """Returns the questions that a unit asks each of its memories."""
        return [self.questions[name] for name in unit["question_ids"]]

    def roll_out(self, units: Sequence[Mapping[str, Any]], policy: Policy) -> list[Rollout]:
        """Writes a memory for every unit and asks it; a unit comes `num_generations` times in a row."""
        rollouts = []
        for unit in units:
            history = self.split.histories[unit["history_id"]]
            blind = is_blind(self.args.seed, policy.step, history.id, self.args.blind_share)
            chunks = [] if blind else self.agent.chunks(history)
            rollouts.append(Rollout(history, blind, self.asked(unit), chunks))
        self._write(rollouts, policy)
        for rollout in rollouts:
            rollout.memory_tokens = self.agent.count(rollout.memory)
        self._answer(rollouts, policy)
        for rollout in rollouts:
            for turn in rollout.turns:
                turn.weight, turn.share = weigh(rollout, turn, self.args.turn_weighting)
        return rollouts

    def _write(self, rollouts: Sequence[Rollout], policy: Policy) -> None:
        """Draws all updates, chunk by chunk; those of one history share its chunk."""
        for place in range(max(policy.gather([len(rollout.chunks) for rollout in rollouts]))):
            writing = [rollout for rollout in rollouts if place < len(rollout.chunks)]
            prompts = build_once(
                ((r.history.id, r.memory), partial(self.agent.update_ids, r.chunks[place], r.memory))
                for r in writing
            )
            drawn = policy.complete(prompts, self.agent.settings.memory_tokens)
            for rollout, prompt, (completion, logps) in zip(writing, prompts, drawn, strict=True):
                update = self.agent.accept(completion, rollout.memory, policy.ends)
                rollout.updates.append(Turn(prompt, completion, logps, update=update))
                rollout.memory = update.memory

    def _answer(self, rollouts: Sequence[Rollout], policy: Policy) -> None:
        asked = [(r, q) for r in rollouts for q in r.questions for _ in range(self.args.answers_per_memory)]
        prompts = build_once(
            ((question.id, r.memory), partial(self.agent.answer_ids, question, r.memory))
            for r, question in asked
        )
        drawn = policy.complete(prompts, self.args.max_completion_length)
        for (rollout, question), prompt, (completion, logps) in zip(asked, prompts, drawn, strict=True):
            rollout.answers.append(Turn(prompt, completion, logps, question=question))

    def contests(
        self, rollouts: Sequence[Rollout], weights: Sequence[float], memory_weights: Sequence[float]
    ) -> list[Contest]:
        """Updates compete by their memories, and answers with the other answers to their question."""
        if self.args.multi_objective_aggregation == "normalize_then_sum":
            of_memory: Sequence[float] = [*weights, *memory_weights]
            columns = [
                [*map(mean, zip(*(turn.scores for turn in r.answers), strict=True)), *r.memory_scores]
                for r in rollouts
            ]
        else:
            of_memory, columns = [1.0], [[rollout.reward] for rollout in rollouts]
        updates = [rollout.updates for rollout in rollouts]
        compared, size = self._competing(rollouts)
        return [
            Contest(updates, table(columns), of_memory, self.args.num_generations),
            Contest([[turn] for turn in compared], table([turn.scores for turn in compared]), weights, size),
        ]

    def _competing(self, rollouts: Sequence[Rollout]) -> tuple[list[Turn], int]:
        """All answers, those that compete next to one another, and how many these are."""
        if self.args.answers_per_memory > 1:
            return [turn for rollout in rollouts for turn in rollout.answers], self.args.answers_per_memory
        size = self.args.num_generations
        groups = [rollouts[i : i + size] for i in range(0, len(rollouts), size)]
        columns = [zip(*(rollout.answers for rollout in group), strict=True) for group in groups]
        return [turn for of_group in columns for of_question in of_group for turn in of_question], size

    def table(self, rollouts: Sequence[Rollout], names: Sequence[str]) -> dict[str, Any]:
        """Returns one row per rollout: its memory and its answers."""
        return {
            "prompt": [f"history {rollout.history.id}" for rollout in rollouts],
            "completion": [
                "\n\n".join(
                    [
                        rollout.memory,
                        *(f"{turn.question.query}\n{turn.text}" for turn in rollout.answers if turn.question),
                    ]
                )
                for rollout in rollouts
            ],
            "rewards": {"trajectory": [rollout.reward for rollout in rollouts]},
            "advantages": [rollout.turns[0].advantage for rollout in rollouts],
            "extra": {
                "history_id": [rollout.history.id for rollout in rollouts],
                **{
                    name: [", ".join(str(turn.extra.get(name, "")) for turn in r.answers) for r in rollouts]
                    for name in extra_columns(rollouts)
                },
            },
        }


def weigh(rollout: Rollout, turn: Turn, weighting: str) -> tuple[float, float]:
    """Returns the weight of a turn's tokens in a sum over tokens, and of the turn in a mean over turns.

    Args:
        rollout: The rollout of the turn.
        turn: The turn.
        weighting: What has the same weight: every "token", every "turn", or every "trajectory" and, within
            it, every turn.
    """
    if weighting == "token":
        return 1.0, 1.0
    share = 1.0 if weighting == "turn" else 1.0 / len(rollout.turns)
    return share / len(turn.completion), share
