"""Variants of a question: rotated options, several samples, or without options.

Invariant: a variant is a separate `Question` whose id encodes the question, option order and sample. The
plain variant (displayed order, first sample) keeps the question's id. Over as many orders as there are
options, each option appears once in each position, so a model that considers only positions is correct as
often as by guessing.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from reward.mcq import LETTERS
from rft.data.question import Question

_PARTS = re.compile(r"(.*?)(?:/order(\d+))?(?:/sample(\d+))?", re.S)


def variants_of(
    questions: Sequence[Question], *, orders: int = 1, samples: int = 1, open_ended: bool = False
) -> list[Question]:
    """All variants of each question; the variants of one question are consecutive.

    Args:
        questions: the questions.
        orders: number of option rotations; at most as many as a question has options, and 1 without options.
        samples: completions per prompt.
        open_ended: ask without options.
    """
    return [
        replace(
            _rotated(question, order),
            id=variant_id(question.id, order, sample),
            open_ended=open_ended or question.open_ended,
        )
        for question in questions
        for order in range(max(1, min(orders, len(question.options))))
        for sample in range(samples)
    ]


def variant_id(question_id: str, order: int = 0, sample: int = 0) -> str:
    """The id of a variant, such as `benchmark-7`, `benchmark-7/order1` or `benchmark-7/order1/sample2`."""
    return question_id + (f"/order{order}" if order else "") + (f"/sample{sample}" if sample else "")


def variant_parts(identity: str) -> tuple[str, int, int]:
    """Splits a variant's id into (question id, order, sample)."""
    parts = _PARTS.fullmatch(identity)
    assert parts is not None
    return parts[1], int(parts[2] or 0), int(parts[3] or 0)


def seed_of(seed: int, asked: Sequence[Question]) -> int:
    """A seed for one batch of variants that does not depend on the batches before it."""
    content = f"{seed} " + " ".join(question.id for question in asked)
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big")


def _rotated(question: Question, order: int) -> Question:
    if not order or question.gold is None:
        return question
    options = question.options[order:] + question.options[:order]
    gold = LETTERS[(LETTERS.index(question.gold) - order) % len(options)]
    return replace(question, options=options, gold=gold)
