"""The memory's training rows: targets of updates and answers for the cold start, and units of questions for GRPO.

Targets come from notes (`rft.memory.targets`) and labels; prompts come from the agent, which sees neither.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from datasets import Dataset

from rft.data.control import inert
from rft.data.dataset import Split
from rft.data.question import Question
from rft.errors import RecipeError
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.memory.targets import MemoryTargets, about
from rft.memory.text import EMPTY
from rft.train.recipe import DataArguments
from rft.train.targets import answer, load_questions, named, of_every_kind

logger = logging.getLogger(__name__)


@dataclass
class MemoryArguments:
    """How a history is read into a memory."""

    chunk_tokens: int = field(default=5000, metadata={"help": "Most tokens of a chunk of a history."})
    memory_tokens: int = field(
        default=2048, metadata={"help": "Most tokens of a memory, and of an update (paper 2,048, scripts 1,024)."}
    )
    max_chunks: int | None = field(default=None, metadata={"help": "Only the newest so many chunks of a history are read."})

    def settings(self) -> MemorySettings:
        """Raises RecipeError for a size below 1."""
        try:
            return MemorySettings(self.chunk_tokens, self.memory_tokens, self.max_chunks)
        except ValueError as error:
            raise RecipeError(str(error)) from None


def load_memory_questions(data: DataArguments) -> tuple[Split, list[Question]]:
    """The training split and its questions. Raises RecipeError for a limit that the memory has no use for."""
    if data.max_prompt_tokens is not None:
        raise RecipeError(
            f"max_prompt_tokens {data.max_prompt_tokens}: the memory reads a history in chunks, however long it is; remove "
            "the field, and set chunk_tokens"
        )
    if data.context != "history":
        logger.warning("context %s is ignored: the memory arm sees the memory alone", data.context)
    return load_questions(data, None)


def answer_target(question: Question, lines: Mapping[str, str]) -> str:
    """The answer that the cold start imitates, from what the memory says of the question's topic; its letter is gold."""
    line = lines.get(about(question))
    thought = f"Remembered: {inert(line or 'nothing that may be used.')} {named(question)} is ({question.gold})."
    return f"<think>{thought}</think>{answer(question)}"


def sft_rows(
    questions: Sequence[Question],
    split: Split,
    notes: Mapping[str, MemoryTargets],
    agent: MemoryAgent,
    answers_per_update: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """A row per update, and `answers_per_update` answers, to questions of every kind among each history's: {history_id, turn,
    question_id, before, completion, length}; `before` is the memory that the prompt holds, `turn` the chunk of an update (-1: an
    answer), `length` the row's characters.

    questions: those that have targets. An update has one unless its chunk tells of what another question of the split is about
    (`LabelArguments.hard_targets`); its memory holds that all the same, as what an earlier update wrote.

    Raises:
        RecipeError: a target memory is larger than the budget.
    """
    rows: list[dict[str, Any]] = []
    budget, rng = agent.settings.memory_tokens, Random(f"answers-{seed}")
    of_history: dict[str, list[Question]] = {}
    for question in questions:
        of_history.setdefault(question.history_id, []).append(question)
    without_target = {(q.history_id, about(q)) for q in split.questions} - {(q.history_id, about(q)) for q in questions}
    for history_id, asked in of_history.items():
        chunks, before = agent.chunks(split.histories[history_id]), ""
        skipped = chunks[0].first - 1  # what max_chunks leaves out is not to be remembered
        held = MemoryTargets(tuple(note for note in notes[history_id].notes if note.message > skipped), ())
        for turn, chunk in enumerate(chunks):
            after = held.memory(chunk.last)
            if (tokens := agent.count(after)) > budget:
                raise RecipeError(
                    f"memory_tokens {budget}: the memory of {split.histories[history_id].path} should hold {tokens} tokens; "
                    "raise memory_tokens"
                )
            told = {(history_id, note.about) for note in held.notes if chunk.first <= note.message <= chunk.last}
            if not told & without_target:
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
        "cold start of the memory: %d updates and %d answers over %d histories", updates, len(rows) - updates, len(of_history)
    )
    return Dataset.from_list(rows)


def _row(history_id: str, turn: int, question_id: str, before: str, completion: str, chunk: str = "") -> dict[str, Any]:
    length = len(chunk) + len(before) + len(completion)
    return {"history_id": history_id, "turn": turn, "question_id": question_id, "before": before, "completion": completion,
            "length": length}


def memory_units(questions: Sequence[Question], per_memory: int, seed: int) -> Dataset:
    """A row per unit: one history and up to `per_memory` of its questions, which one memory answers. Every question is in one
    unit; which ones go together follows from the seed."""
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
