"""What both GRPO commands do about rewards before a model is loaded: some questions become open-ended, a
judge is reached, and the rewards are tried on an answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import reward
from rft.tasks.base import Split
from rft.data.question import LETTERS, Question
from rft.errors import RecipeError
from rft.models.endpoint import Endpoint
from rft.models.failures import EndpointError
from rft.train.grpo_config import LoopConfig
from rft.train.rewards import Scorer
from rft.train.targets import mixed, target


def with_open_ended(
    args: LoopConfig, split: Split, questions: list[Question]
) -> tuple[Split, list[Question]]:
    """Makes `open_ended_share` of the questions open-ended."""
    if not args.open_ended_share:
        return split, questions
    questions = mixed(questions, args.open_ended_share)
    return replace(split, questions=tuple(questions)), questions


def prepare(scorer: Scorer, args: LoopConfig, questions: Sequence[Question], tokenizer: Any) -> None:
    """Adds the judge if there are open-ended questions; otherwise tries the rewards on the first question.

    Raises:
        RecipeError: If the judge cannot be reached, or a reward returns no numbers.
    """
    if args.open_ended_share:
        scorer.add(reward.open_ended(_judge(args)))
    else:
        first = questions[0]
        right = target(first)
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
