"""Scores for open-ended answers: a second pass over rows that are already on disk.

Invariant: an answer is judged only by what its row contains, and a row that has a score keeps it. If the
judge cannot be reached, rows stay without a score; the next run of the same command retries them and pays for
no verdict twice.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reward.judge import Judge, majority
from reward.mcq import has_reasoning
from rft.models.failures import EndpointError
from rft.records.row import ResultRow
from rft.tasks.load import task_named

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)


def judge_rows(rows: Sequence[ResultRow], judge: Judge, console: "Console | None" = None) -> list[ResultRow]:
    """Judges the rows that have no score.

    Returns:
        All rows, with `votes` (three of true, false, null) and `score`: 1.0 if most votes are true and the
        completion reasoned before it answered; None if the votes give no verdict.
    """
    from rich.progress import Progress

    from rft.screen import screen

    waiting = [row for row in rows if row.score is None]
    if not waiting:
        return list(rows)
    judged: dict[str, ResultRow] = {}

    async def judge_all() -> None:
        slots = asyncio.Semaphore(judge.endpoint.concurrency)  # the prompts of waiting rows are not built yet

        async def one(row: ResultRow) -> None:
            async with slots:
                case, fact = task_named(row.task).judged(row)
                votes = await judge.votes(case, row.query, row.completion, fact)
            verdict = majority(votes)
            score = None if verdict is None else float(verdict and has_reasoning(row.completion))
            judged[row.id] = row.model_copy(update={"votes": votes, "score": score})
            progress.advance(task)

        try:
            async with asyncio.TaskGroup() as tasks:
                for row in waiting:
                    tasks.create_task(one(row))
        except* EndpointError as errors:
            logger.warning(
                "judge %s: %s; answers without a verdict are not scored",
                judge.endpoint.model,
                errors.exceptions[0],
            )
        finally:
            await judge.endpoint.close()

    with Progress(console=console or screen(stderr=True)) as progress:
        task = progress.add_task(f"judged by {judge.endpoint.model}", total=len(waiting))
        asyncio.run(judge_all())
    return [judged.get(row.id, row) for row in rows]
