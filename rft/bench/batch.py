"""Rows of random tokens in the shape of a batch: questions, or memory trajectories, over one history."""

import random
from collections.abc import Callable

from rft.bench.setting import Setting

Batch = tuple[list[list[int]], list[int]]
"""Rows, and the lengths of their prompts."""


def questions(setting: Setting) -> Batch:
    """Returns Q questions over one history, with G completions each."""
    tokens = _tokens(setting)
    history, rows = tokens(setting.prompt_tokens), []
    for _ in range(setting.questions):
        prompt = history + tokens(setting.question_tokens)
        rows += [prompt + tokens(setting.completion_tokens) for _ in range(setting.generations)]
    return rows, [setting.prompt_tokens + setting.question_tokens] * len(rows)


def trajectories(setting: Setting) -> Batch:
    """Returns G memory trajectories over one history.

    Each trajectory has a row per chunk (the chunk, the memory before it, the rewritten memory) and a row per
    question (the last memory, the question, an answer).
    """
    tokens = _tokens(setting)
    rows: list[list[int]] = []
    prompts: list[int] = []
    memories: list[list[int]] = [[] for _ in range(setting.generations)]
    for chunk in [tokens(setting.prompt_tokens) for _ in range(setting.chunks)]:
        written = [tokens(setting.memory_tokens) for _ in memories]
        rows += [chunk + before + after for before, after in zip(memories, written, strict=True)]
        prompts += [len(chunk + before) for before in memories]
        memories = written
    for question in [tokens(setting.question_tokens) for _ in range(setting.questions)]:
        rows += [memory + question + tokens(setting.completion_tokens) for memory in memories]
        prompts += [setting.memory_tokens + setting.question_tokens] * len(memories)
    return rows, prompts


def some(count: int, requested: int) -> list[int]:
    """Chooses `requested` of `count` row indices, half from each end, so that some share a question and all a
    history; 0: all."""
    if not 0 < requested < count:
        return list(range(count))
    first = requested - requested // 2
    return [*range(first), *range(count - requested // 2, count)]


def _tokens(setting: Setting) -> Callable[[int], list[int]]:
    """Returns a function that draws random tokens."""
    rng, vocabulary = random.Random(0), setting.shape["vocab_size"]
    return lambda count: [rng.randrange(vocabulary) for _ in range(count)]
