"""The arm that reads a whole history: a rollout is one answer to one question.

history ─┬─ question 1 ─┬─ answer    the answers to a question compete with one another
         │              └─ answer
         └─ question 2 ─┬─ answer    all of them share the history, which is forwarded once
                        └─ answer
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rft.data.prompt import PromptTokens, final_message
from rft.data.question import Question
from rft.data.sampler import HistorySampler
from rft.tasks.base import Split
from rft.train.advantages import Contest
from rft.train.arm import Policy
from rft.train.grpo_config import HistoryGRPOConfig
from rft.train.rollout import Rollout, Turn, build_once, extra_columns, is_blind, table


class HistoryArm:
    """Asks questions over whole histories.

    Args:
        split: Questions and histories of the dataset's rows.
        tokens: Builds the prompts.
        args: Fields of the recipe.
    """

    keeps_flat_turns = True  # as TRL does: entropy and the clip ratios are those of all answers

    def __init__(self, split: Split, tokens: PromptTokens, args: HistoryGRPOConfig):
        self.split, self.tokens, self.args = split, tokens, args
        self.without_history = PromptTokens(tokens.tokenizer, "none")
        self.questions = {question.id: question for question in split.questions}

    def sampler(self, dataset: Any) -> HistorySampler:
        """Returns an order in which `questions_per_history` questions of a history are together. The longest
        history is first: if memory runs out, it runs out in the first step."""
        histories, args = dataset["history_id"], self.args
        longest = max(
            sorted(set(histories)),
            key=lambda name: sum(len(message.content) for message in self.split.histories[name].messages),
        )
        return HistorySampler(
            histories,
            args.questions_per_history,
            args.units_per_generation(),
            args.num_generations,
            args.num_iterations * args.steps_per_generation,
            shuffle=args.shuffle_dataset,
            seed=args.seed,
            first=longest,
        )

    def asked(self, unit: Mapping[str, Any]) -> list[Question]:
        """Returns the question of a row."""
        return [self.questions[unit["question_id"]]]

    def roll_out(self, units: Sequence[Mapping[str, Any]], policy: Policy) -> list[Rollout]:
        """Draws an answer for every row; a question has `num_generations` rows in a row."""
        rollouts = []
        for unit in units:
            (question,) = self.asked(unit)
            history = self.split.history_of(question)
            blind = is_blind(self.args.seed, policy.step, history.id, self.args.blind_share)
            rollouts.append(Rollout(history, blind, [question]))
        asked = build_once((r.questions[0].id, partial(self._prompt, r)) for r in rollouts)
        drawn = policy.complete(asked, self.args.max_completion_length)
        for rollout, prompt, (completion, logps) in zip(rollouts, asked, drawn, strict=True):
            rollout.answers = [Turn(prompt, completion, logps, question=rollout.questions[0])]
        return rollouts

    def _prompt(self, rollout: Rollout) -> list[int]:
        if rollout.blind:
            return self.without_history.prompt_ids(rollout.questions[0], None)
        return self.tokens.prompt_ids(rollout.questions[0], rollout.history)

    def contests(
        self, rollouts: Sequence[Rollout], weights: Sequence[float], memory_weights: Sequence[float]
    ) -> list[Contest]:
        """Every answer competes with the other answers to its question."""
        turns = [rollout.answers[0] for rollout in rollouts]
        # in float32, as TRL has them: the same numbers, bit for bit
        scores_NF = table([turn.scores for turn in turns]).float()
        return [Contest([[turn] for turn in turns], scores_NF, weights, self.args.num_generations)]

    def table(self, rollouts: Sequence[Rollout], names: Sequence[str]) -> dict[str, Any]:
        """Returns one row per answer."""
        turns = [rollout.answers[0] for rollout in rollouts]
        questions = [rollout.questions[0] for rollout in rollouts]
        return {
            "prompt": [final_message(question) for question in questions],
            "completion": [turn.text for turn in turns],
            "rewards": {name: [turn.scores[i] for turn in turns] for i, name in enumerate(names)},
            "advantages": [turn.advantage for turn in turns],
            "extra": {
                "question_id": [question.id for question in questions],
                "history_id": [question.history_id for question in questions],
                "answer": [None if question.open_ended else question.gold for question in questions],
                **{name: [turn.extra.get(name) for turn in turns] for name in extra_columns(rollouts)},
            },
        }
