"""Training rows of questions. A row names its history by id; the tokens of a history exist once, in
`PromptTokens`.

Labels are used in the targets of the cold start and in reports, never in a prompt.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from datasets import Dataset

from rft.data.control import inert
from rft.data.prompt import PromptTokens
from rft.data.question import Question
from rft.errors import RecipeError
from rft.tasks.base import Split
from rft.tasks.load import load_split, task_named
from rft.train.recipe import DataArguments
from rft.train.rewards import question_columns

logger = logging.getLogger(__name__)

ABSTENTION = "That cannot be known from our conversations."
"""The answer that a cold start imitates if the right answer is to abstain."""


def load_questions(data: DataArguments, tokens: PromptTokens | None) -> tuple[Split, list[Question]]:
    """Loads the training split and its questions whose prompt fits `max_prompt_tokens`; logs how many are
    left out.

    Args:
        data: Fields of the recipe.
        tokens: Counts the tokens of a prompt; may be None if there is no such limit.

    Raises:
        RecipeError: If no question is left.
    """
    split = load_split(
        data.data,
        data.train_split,
        data.window,
        revision=data.data_revision,
        exclude_personas=data.exclude_personas,
    )
    for skip in split.skipped[:5]:
        logger.warning("%s row %d skipped: %s", data.train_split, skip.row, skip.reason)
    kept, left_out = list(split.questions), ""
    if data.max_prompt_tokens is not None:
        assert tokens is not None
        kept = [q for q in kept if len(tokens.prompt_ids(q, split.history_of(q))) <= data.max_prompt_tokens]
        longer = len(split.questions) - len(kept)
        left_out = f", {longer} left out as longer than {data.max_prompt_tokens} tokens"
    logger.info(
        "%s: %d questions over %d histories; %d rows skipped%s",
        data.train_split,
        len(kept),
        len({q.history_id for q in kept}),
        len(split.skipped),
        left_out,
    )
    if not kept and tokens is not None:
        shortest = min(len(tokens.prompt_ids(q, split.history_of(q))) for q in split.questions)
        raise RecipeError(
            f"max_prompt_tokens {data.max_prompt_tokens}: every prompt is longer; the shortest has {shortest}"
            " tokens"
        )
    return split, kept


def load_held_out(data: DataArguments, split: str | None) -> Split | None:
    """Loads the split of `held_out_split`, if set, with the training split: a wrong name fails before a model
    is loaded."""
    return load_split(data.data, split, data.window, revision=data.data_revision) if split else None


def answer(question: Question) -> str:
    """Returns the text after the think block.

    Without options it is the first accepted answer. With options it names the option once more, so that the
    letter in the box is looked up in the same way as the letter in the think block. A tiny model that had to
    copy the letter from there learned this 120 to 190 steps later (2026-11-22).
    """
    if question.gold is None:
        return inert(question.gold_text) or ABSTENTION
    return f"{task_named(question.task).named(question)} \\boxed{{{question.gold}}}"


def target(question: Question, knows: bool = True) -> str:
    """Returns the completion that the cold start imitates; the rewards score it 1.

    Args:
        question: The question to answer.
        knows: False if the prompt contains no history, so that nothing can be remembered: a letter is then a
            guess, and a question without options is not answered.
    """
    thought = task_named(question.task).reasoning(question, knows)
    reply = answer(question) if knows or question.gold is not None else ABSTENTION
    return f"<think>{thought}</think>{reply}"


def is_hard(question: Question) -> bool:
    """Whether a correct answer needs more than the stated preference: if it is still valid, if it may be
    used, whose it is. In a dataset of one's own: whether its kind is named and not "plain"."""
    return question.kind not in ("", "plain")


def of_every_kind(questions: Sequence[Question], count: int, rng: random.Random) -> list[Question]:
    """Draws `count` questions, or all if there are fewer, from each kind in turn, so that even a few include
    the rare kinds."""
    kinds: dict[str, list[Question]] = {}
    for question in rng.sample(questions, len(questions)):
        kinds.setdefault(question.kind, []).append(question)
    rounds = zip_longest(*rng.sample(list(kinds.values()), len(kinds)))
    return [question for drawn in rounds for question in drawn if question is not None][:count]


def mixed(questions: Sequence[Question], open_ended_share: float) -> list[Question]:
    """Makes a share of the questions open-ended.

    The same data gives the same choice, as in the authors' preprocessing, which shuffles the rows with seed
    42.
    """
    free = set(random.Random(42).sample(range(len(questions)), round(open_ended_share * len(questions))))
    return [
        replace(question, open_ended=i in free or question.open_ended) for i, question in enumerate(questions)
    ]


def grpo_rows(questions: Sequence[Question]) -> Dataset:
    """Builds one row per question: what an `Example` says about it, so that the rows can be read."""
    rows = [question_columns(q) for q in questions]
    for row in rows:
        del row["labels"]  # a label may have values of several types, which a table cannot hold
    return Dataset.from_list(rows)
