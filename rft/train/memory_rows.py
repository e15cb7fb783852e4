"""The memory's training rows: targets of updates and answers for the cold start, and units of questions for
GRPO.

Targets come from notes (`rft.tasks.memory_targets`) and labels; prompts come from the agent, which sees
neither.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from datasets import Dataset

from rft.data.control import inert
from rft.data.question import Question
from rft.errors import RecipeError
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.memory.text import EMPTY
from rft.tasks.base import Split
from rft.tasks.load import task_named
from rft.tasks.memory_targets import MemoryTargets, about
from rft.train.help import recipe_field
from rft.train.recipe import DataArguments
from rft.train.targets import answer, load_questions, of_every_kind

logger = logging.getLogger(__name__)


@dataclass
class MemoryArguments:
    """Sizes of a memory and of the chunks that it is written from."""

    chunk_tokens: int = recipe_field(MemorySettings.chunk_tokens, "Maximum tokens per history chunk.")
    memory_tokens: int = recipe_field(
        MemorySettings.memory_tokens,
        "Maximum tokens of a memory, and of an update (paper 2,048, scripts 1,024).",
    )
    max_chunks: int | None = recipe_field(None, "Read only the N most recent chunks of a history. null: all.")

    def settings(self) -> MemorySettings:
        """Returns the sizes as the memory agent takes them.

        Raises:
            RecipeError: If a size is below 1.
        """
        try:
            return MemorySettings(self.chunk_tokens, self.memory_tokens, self.max_chunks)
        except ValueError as error:
            raise RecipeError(str(error)) from None


def load_memory_questions(data: DataArguments) -> tuple[Split, list[Question]]:
    """Loads the training split and its questions.

    Raises:
        RecipeError: If `max_prompt_tokens` is set, which does not apply to a memory.
    """
    if data.max_prompt_tokens is not None:
        raise RecipeError(
            f"max_prompt_tokens {data.max_prompt_tokens}: the memory reads a history of any length in chunks;"
            " remove the field, and set chunk_tokens"
        )
    if data.context != "history":
        logger.warning("context %s is ignored: the memory arm sees only the memory", data.context)
    return load_questions(data, None)


def answer_target(question: Question, lines: Mapping[str, str]) -> str:
    """Returns the answer that the cold start imitates; with options, its letter is the gold letter.

    Args:
        question: The question to answer.
        lines: {topic: line of the memory}; the reason quotes the line on the question's topic.
    """
    line = lines.get(about(question))
    thought = f"Remembered: {inert(line or 'nothing that may be used.')}"
    if question.gold is not None:
        thought += f" {task_named(question.task).named(question)} is ({question.gold})."
    return f"<think>{thought}</think>{answer(question)}"


def sft_rows(
    questions: Sequence[Question],
    split: Split,
    notes: Mapping[str, MemoryTargets],
    agent: MemoryAgent,
    answers_per_update: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Builds the rows of the cold start: one per update, and `answers_per_update` answers per update.

    An update has a target unless its chunk reveals the topic of a question that has none
    (`LabelArguments.hard_targets`). The memory that a later update starts from contains that topic all the
    same, as if an update had written it.

    Args:
        questions: The questions that have targets.
        split: All questions and histories.
        notes: {history id: targets of its memory}.
        agent: Splits histories into chunks and counts tokens.
        answers_per_update: Answers per update, to questions of every kind about the history.
        seed: Random seed of the choice of questions.

    Returns:
        Rows {history_id, turn, question_id, before, completion, length}. `before` is the memory in the
        prompt, `turn` the chunk of an update (-1: an answer), `length` the row's characters.

    Raises:
        RecipeError: If a target memory is larger than the budget.
    """
    rows: list[dict[str, Any]] = []
    budget, rng = agent.settings.memory_tokens, Random(f"answers-{seed}")
    of_history: dict[str, list[Question]] = {}
    for question in questions:
        of_history.setdefault(question.history_id, []).append(question)
    without_target = {(q.history_id, about(q)) for q in split.questions} - {
        (q.history_id, about(q)) for q in questions
    }
    for history_id, asked in of_history.items():
        chunks, before = agent.chunks(split.histories[history_id]), ""
        skipped = chunks[0].first - 1  # the memory must not contain what max_chunks leaves out
        held = MemoryTargets(tuple(note for note in notes[history_id].notes if note.message > skipped), ())
        for turn, chunk in enumerate(chunks):
            after = held.memory(chunk.last)
            if (tokens := agent.count(after)) > budget:
                raise RecipeError(
                    f"memory_tokens {budget}: the target memory of {split.histories[history_id].path} has"
                    f" {tokens} tokens; raise memory_tokens"
                )
            labelled = {
                (history_id, note.about) for note in held.notes if chunk.first <= note.message <= chunk.last
            }
            if not labelled & without_target:
                written = held.update(chunk.first, chunk.last)
                rows.append(_row(history_id, turn, "", before, inert(written) or EMPTY, chunk.text))
            before = after
        lines = held.lines(chunks[-1].last)
        rows += [
            _row(history_id, -1, question.id, before, answer_target(question, lines))
            for question in of_every_kind(asked, int(len(chunks) * answers_per_update + rng.random()), rng)
        ]
    updates = sum(row["turn"] >= 0 for row in rows)
    logger.info(
        "cold start of the memory: %d updates and %d answers over %d histories",
        updates,
        len(rows) - updates,
        len(of_history),
    )
    return Dataset.from_list(rows)


def _row(
    history_id: str, turn: int, question_id: str, before: str, completion: str, chunk: str = ""
) -> dict[str, Any]:
    length = len(chunk) + len(before) + len(completion)
    return {
        "history_id": history_id,
        "turn": turn,
        "question_id": question_id,
        "before": before,
        "completion": completion,
        "length": length,
    }


def memory_units(questions: Sequence[Question], per_memory: int, seed: int) -> Dataset:
    """Builds one row per unit: a history and up to `per_memory` of its questions, which one memory answers.

    Every question is in exactly one unit. The seed decides which questions are together.
    """
    rng = Random(f"units-{seed}")
    of_history: dict[str, list[Question]] = {}
    for question in questions:
        of_history.setdefault(question.history_id, []).append(question)
    rows = []
    for history_id, asked in of_history.items():
        drawn = rng.sample(asked, len(asked))
        for start in range(0, len(drawn), per_memory):
            rows.append(
                {
                    "prompt": f"history {history_id}",
                    "history_id": history_id,
                    "question_ids": [question.id for question in drawn[start : start + per_memory]],
                }
            )
    return Dataset.from_list(rows)
