"""What both GRPO commands do about rewards before a model is loaded: some questions become open-ended, the
rewards that the questions need are added, a judge is reached, and the rewards are tried on an answer."""

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import reward
from reward.mcq import LETTERS
from rft.data.question import Question
from rft.errors import RecipeError
from rft.models.endpoint import Endpoint
from rft.models.failures import EndpointError
from rft.tasks.base import Split
from rft.train.grpo_config import LoopConfig
from rft.train.rewards import Scorer
from rft.train.targets import mixed, target

WRONG = "<think>This is tried on the rewards.</think>zzz"
"""An answer in the right form that is wrong for every question without options."""


def with_open_ended(
    args: LoopConfig, split: Split, questions: list[Question]
) -> tuple[Split, list[Question]]:
    """Makes `open_ended_share` of the questions open-ended."""
    if not args.open_ended_share:
        return split, questions
    questions = mixed(questions, args.open_ended_share)
    return replace(split, questions=tuple(questions)), questions


def prepare(scorer: Scorer, args: LoopConfig, questions: Sequence[Question], tokenizer: Any) -> None:
    """Adds the judge if there is one and there are questions without options, or else `reward.token_f1` if
    there are such questions and no reward of the recipe reads their accepted answers; then tries the rewards
    on the first question, if no judge has to be paid for it.

    Raises:
        RecipeError: If only a judge can score some questions and there is none, the judge cannot be reached,
            or a reward returns no numbers.
    """
    free = [question for question in questions if question.open_ended]
    judged = args.open_ended_share or (free and (args.judge_base_url or args.judge_model))
    if judged:
        scorer.add(reward.open_ended(_judge(args)))
    elif free and not any("accepted" in signature(f.function).parameters for f in scorer.rewards):
        scorer.add(reward.token_f1)
    if len(scorer.weights) != len(scorer.rewards):
        raise RecipeError(
            f"reward_weights has {len(scorer.weights)} numbers, but the questions without options need"
            f" {scorer.names[-1]} as well; name it in `rewards`, or give no weights"
        )
    if judged:
        return
    if alone := next((question for question in free if not question.compared), None):
        raise RecipeError(
            f"question {alone.id} has no options and no accepted answer, so only a judge can score it; set"
            " judge_base_url and judge_model"
        )
    first = questions[0]
    right, false = target(first), WRONG
    if first.gold is not None:
        wrong = next(letter for letter in LETTERS if letter != first.gold)
        false = right.replace(f"\\boxed{{{first.gold}}}", f"\\boxed{{{wrong}}}")
    scorer.check(first, right, false, tokenizer, loud=args.process_index == 0)


def _judge(args: LoopConfig) -> reward.Judge:
    """The judge of open-ended answers. It must be reachable at the start; later it may fail."""
    try:
        endpoint = Endpoint(args.judge_base_url or "", args.judge_model or "", timeout=120.0)
        endpoint.now(endpoint.check())
    except EndpointError as error:
        raise RecipeError(f"judge_base_url: {error}") from None
    return reward.Judge(endpoint, "~/.cache/rft/verdicts")
