"""Training rows of questions. A row names its history by id; the tokens of a history exist once, in
`PromptTokens`.

Labels are used in the targets of the cold start and in reports, never in a prompt.
"""

import logging
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import zip_longest

from datasets import Dataset

from reward.judge import case_and_fact
from rft.data.control import inert
from rft.data.dataset import Split, load_split
from rft.data.prompt import PromptTokens
from rft.data.question import LETTERS, Question
from rft.errors import RecipeError
from rft.train.recipe import DataArguments
from rft.train.rewards import question_columns

logger = logging.getLogger(__name__)

VERDICTS = {
    "own": "",
    "others": ", not the user's own",
    "forget": ", forget it",
    "sensitive": ", not to be repeated",
    "none": ", given up",
}
SHORT_OPTION = 8  # maximum words of an option that the reason names in full


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
    kept = list(split.questions)
    if data.max_prompt_tokens is not None:
        assert tokens is not None
        kept = [q for q in kept if len(tokens.prompt_ids(q, split.history_of(q))) <= data.max_prompt_tokens]
    left_out = ""
    if data.max_prompt_tokens is not None:
        left_out = (
            f", {len(split.questions) - len(kept)} left out as longer than {data.max_prompt_tokens} tokens"
        )
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


def reasoning(question: Question, knows: bool = True) -> str:
    """Returns a short true reason for the gold option, made from the labels: the cold start's target for the
    think block.

    The reason first states the preference and then whether it may be used: this is easier to decide once the
    preference is named.

    Args:
        question: The question to answer.
        knows: False if the prompt contains no history, so that nothing can be remembered.
    """
    case, held = case_and_fact(**asdict(question.labels))
    held = "something sensitive" if case == "sensitive" else held
    knows = knows and bool(held)
    # never the user's, or given up
    verdict = VERDICTS["others" if case == "none" and not question.labels.updated else case]
    known = f"Remembered: {inert(held).rstrip('.')}{verdict}." if knows else "Remembered: nothing."
    return f"{known} {named(question)} is ({question.gold})."


def named(question: Question) -> str:
    """Returns how an answer names its gold option.

    This is the option's text if it is short; otherwise the end of the preference if the option contains it in
    the same words.
    """
    option = inert(question.options[LETTERS.index(question.gold)])
    if len(option.split()) <= SHORT_OPTION:
        return option.rstrip(".")
    words = inert(question.labels.preference).rstrip(".").split()
    # the longest first
    ends = (" ".join(words[start:]) for start in range(1, len(words)) if len(words[start]) > 3)
    said = next((end for end in ends if re.search(rf"\b{re.escape(end)}\b", option, re.IGNORECASE)), "")
    return said[0].upper() + said[1:] if said else "The option that fits"


def answer(question: Question) -> str:
    """Returns the text after the think block.

    It names the option once more, so that the letter in the box is looked up in the same way as the letter in
    the think block. A tiny model that had to copy the letter from there learned this 120 to 190 steps later
    (2026-11-22).
    """
    return f"{named(question)} \\boxed{{{question.gold}}}"


def target(question: Question, knows: bool = True) -> str:
    """Returns the completion that the cold start imitates; `reward.personamem` scores it 1."""
    return f"<think>{reasoning(question, knows)}</think>{answer(question)}"


def is_hard(question: Question) -> bool:
    """Whether a correct answer needs more than the stated preference: if it is still valid, if it may be
    used, whose it is."""
    return question.labels.kind != "plain"


def of_every_kind(questions: Sequence[Question], count: int, rng: random.Random) -> list[Question]:
    """Draws `count` questions, or all if there are fewer, from each kind in turn, so that even a few include
    the rare kinds."""
    kinds: dict[str, list[Question]] = {}
    for question in rng.sample(questions, len(questions)):
        kinds.setdefault(question.labels.kind, []).append(question)
    rounds = zip_longest(*rng.sample(list(kinds.values()), len(kinds)))
    return [question for drawn in rounds for question in drawn if question is not None][:count]


def mixed(questions: Sequence[Question], open_ended_share: float) -> list[Question]:
    """Makes a share of the questions open-ended.

    The same data gives the same choice, as in the authors' preprocessing, which shuffles the rows with seed
    42.
    """
    free = set(random.Random(42).sample(range(len(questions)), round(open_ended_share * len(questions))))
    return [replace(question, open_ended=i in free) for i, question in enumerate(questions)]


def grpo_rows(questions: Sequence[Question]) -> Dataset:
    """Builds one row per question: what an `Example` says about it, so that the rows can be read."""
    return Dataset.from_list([question_columns(q) for q in questions])
