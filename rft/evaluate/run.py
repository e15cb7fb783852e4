"""Evaluation runs: asks every question once, stores every answer and summarises them.

Invariant: an interrupted and resumed run ends with the same summary as an uninterrupted one. The summary is
computed from the rows on disk, whichever process wrote them.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from rft.data.history import History
from rft.data.prompt import final_message
from rft.data.question import Question
from rft.errors import DataError
from rft.evaluate.answer import BATCH_SIZE, Answer, Answerer, StreamingAnswerer, Unanswered, WritesMemories
from rft.evaluate.results import Results
from rft.evaluate.variants import variant_parts, variants_of
from rft.files import write_whole
from rft.records.row import ResultRow, grouped
from rft.records.run import RunIdentity
from rft.records.summary import ReaderStatistics, Summary
from rft.tasks.base import Split

if TYPE_CHECKING:
    from rich.console import Console

    from reward import Judge

logger = logging.getLogger(__name__)

ASKED = ("accepted", "abstain", "judge_only", "date")
ONLY_IF_THERE = (*ASKED, "failures", "read", "writing_tokens", "ending", "adapted")  # not in a row if empty
BLIND = "blind"
"""The subfolder with the answers of the same model without the history."""
READER = "reader"
"""The subfolder with the answers of a fixed reader from the same memories."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How questions are asked, in addition to the answerer's settings.

    Attributes:
        limit: only the first `limit` questions of the split (None: all).
        samples: completions per prompt.
        orders: rotations of the options, at most as many as there are.
        open_ended: ask without options; a judge scores the answers.
        judge: scores all answers without options, also those that could be compared with accepted texts.
        batch_size: questions per batch, if the answerer takes batches.
    """

    limit: int | None = None
    samples: int = 1
    orders: int = 1
    open_ended: bool = False
    judge: "Judge | None" = None
    batch_size: int = BATCH_SIZE

    def identity(self) -> dict[str, JsonValue]:
        """The settings that all answers of one folder must share; a limit may change."""
        settings: dict[str, JsonValue] = {
            "samples": self.samples,
            "option_orders": self.orders,
            "open_ended": self.open_ended,
        }
        if self.judge is not None:
            settings["judge"] = f"{self.judge.endpoint.model} at {self.judge.endpoint.base_url}"
        return {key: value for key, value in settings.items() if value not in (1, False)}

    def variants(self, questions: Sequence[Question]) -> list[Question]:
        """All variants in which the questions are asked."""
        return variants_of(questions, orders=self.orders, samples=self.samples, open_ended=self.open_ended)


def evaluate(
    split: Split,
    out: Path | str,
    answerer: Answerer | StreamingAnswerer,
    *,
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    samples: int = 1,
    option_orders: int = 1,
    judge: "Judge | None" = None,
    open_ended: bool = False,
    blind: Answerer | StreamingAnswerer | None = None,
    reader: Answerer | StreamingAnswerer | None = None,
    seed: int = 0,
    console: "Console | None" = None,
) -> Summary:
    """Asks the questions of a split and writes `results.jsonl`, `summary.json` and `report.html` to `out`.

    If the answerer writes memories, `memory.html` is written too. Questions that are already answered in
    `out` are not asked again. limit and batch_size may differ between the runs that fill one folder.

    Args:
        split: the questions and their histories.
        out: folder of the run.
        answerer: what is evaluated.
        limit: only the first `limit` questions (None: all).
        batch_size: questions per batch.
        samples: completions per prompt.
        option_orders: rotations of the options in which each question is asked, at most as many as it has.
        judge: scores answers without options; without it, they are compared with accepted texts.
        open_ended: ask all questions without options; needs a judge.
        blind: the control: the same model in context "none"; its answers go to `out/blind`.
        reader: answers each question once from the memories of `answerer`, which separates the quality of
            writing from the quality of answering; its answers go to `out/reader`.
        seed: random seed of the bootstrap.
        console: shows the progress; None: standard error.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        DataError: `out` contains results of another run or cannot be written, or no question was answered.
            Errors of the answerer pass through; answers received before are kept.
    """
    from rft.evaluate import lines
    from rft.evaluate.statistics import summarise
    from rft.evaluate.timeline import forgotten, last_memories, timelines
    from rft.report.evaluation import write_evaluation_report, write_memory_report

    out = Path(out).expanduser()
    asking = EvaluationSettings(limit, samples, option_orders, open_ended, judge, batch_size)
    if judge is None and any(
        v.open_ended and not v.compared for v in asking.variants(split.questions[:limit])
    ):
        raise DataError(
            "some questions are asked without options and have no accepted answers, so that only a judge can"
            " score them; set --judge-base-url URL --judge-model NAME"
        )
    rows, unanswered, too_long = _collect(split, out, answerer, asking, console)
    if not rows:
        raise DataError(
            f"{out}: none of {unanswered} questions was answered ({too_long} were too long for the model);"
            " see the log above, then run the same command again"
        )
    once = replace(asking, samples=1, orders=1)
    beside: dict[str, list[ResultRow]] = {}
    for name, other in ((BLIND, blind), (READER, reader)):
        if other is not None:
            beside[name], lost, lost_too_long = _collect(split, out / name, other, once, console)
            unanswered, too_long = unanswered + lost, too_long + lost_too_long
    extras: dict[str, Any] = {}  # what not every run has
    if reader is not None and beside[READER]:
        extras["reader"] = ReaderStatistics(
            model=reader.name, **summarise(beside[READER], seed, report_by=split.report_by).dump()
        )
    if isinstance(answerer, WritesMemories):
        extras["forgotten"] = forgotten(split, answerer.folder)
        memories = last_memories(answerer.folder, [row.history_id for row in rows])
        if (written := lines.of_memories(split, memories, seed)) is not None:
            extras["lines"] = written
    if split.task != "personamem":
        extras["task"] = split.task
    if split.published:
        extras["published"] = list(split.published)
    summary = Summary(
        model=answerer.name,
        context=answerer.context,
        split=split.name,
        window=split.window,
        data_sha256=split.sha256,
        **summarise(rows, seed, beside.get(BLIND, ()), split.report_by).dump(),
        **extras,
        unanswered=unanswered,
        too_long=too_long,
        questions_in_split=len(split.questions),
        settings=answerer.settings | asking.identity(),
    )
    write_whole(out / "summary.json", summary.to_text())
    write_evaluation_report(summary, rows, out / "report.html")
    if isinstance(answerer, WritesMemories):
        write_memory_report(summary, timelines(split, answerer.folder, rows), out / "memory.html")
    return summary


def _collect(
    split: Split,
    out: Path,
    answerer: Answerer | StreamingAnswerer,
    asking: EvaluationSettings,
    console: "Console | None",
) -> tuple[list[ResultRow], int, int]:
    """Asks what a folder lacks; returns its rows, how many answers are missing, and how many of these were
    too long."""
    asked = asking.variants(split.questions[: asking.limit])
    about = {"context": answerer.context, "split": split.name, "window": split.window}
    settings = answerer.settings | asking.identity()
    identity = RunIdentity.model_validate(settings | about | {"data_sha256": split.sha256})
    with Results(out, identity, {variant.id for variant in asking.variants(split.questions)}) as results:
        todo = [variant for variant in asked if variant.id not in results.rows]
        if len(todo) < len(asked):
            logger.info(
                "%s: %d of %d answers are already in this folder", out, len(asked) - len(todo), len(asked)
            )
        if isinstance(answerer, WritesMemories):
            unread = dict.fromkeys(variant.history_id for variant in todo)
            answerer.prepare([split.histories[history] for history in unread])
        too_long = _answer_all(todo, split, answerer, asking, results, console)
        if asking.judge is not None:
            from rft.evaluate.judging import judge_rows

            results.replace(judge_rows(list(results.rows.values()), asking.judge, console))
        rows = [results.rows[variant.id] for variant in asked if variant.id in results.rows]
    return rows, len(asked) - len(rows), too_long


def _answer_all(
    todo: Sequence[Question],
    split: Split,
    answerer: Answerer | StreamingAnswerer,
    asking: EvaluationSettings,
    results: Results,
    console: "Console | None",
) -> int:
    """Asks the questions and stores the answers; returns how many questions were too long."""
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rft.screen import screen

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    scores: list[float] = []
    failed = too_long = 0
    with Progress(*columns, console=console or screen(stderr=True)) as progress:
        task = progress.add_task(
            f"asking {escape(answerer.name)}, context {escape(answerer.context)}", total=len(todo), said=""
        )
        for answered in _answers(batches(todo, answerer.context, asking.batch_size), split, answerer):
            rows = [
                result_row(variant, answer, seconds, split.history_of(variant), asking.judge is not None)
                for variant, answer, seconds in answered
                if isinstance(answer, Answer)
            ]
            results.append(rows)
            failed += len(answered) - len(rows)
            too_long += sum(isinstance(answer, Unanswered) and answer.too_long for _, answer, _ in answered)
            scores += [row.score for row in rows if row.score is not None]
            notes = [f"{sum(scores) / len(scores):.0%} right"] if scores else []
            notes += [f"{failed} not answered"] if failed else []
            progress.update(task, advance=len(answered), said=", ".join(notes))
    return too_long


def _answers(
    batched: Iterable[list[Question]], split: Split, answerer: Answerer | StreamingAnswerer
) -> Iterator[list[tuple[Question, Answer | Unanswered, float]]]:
    """Yields lists of (variant, its answer, seconds): one list per batch, or one per answer of a streaming
    answerer."""

    def history_of(variant: Question) -> History | None:
        return None if answerer.context == "none" else split.history_of(variant)

    if isinstance(answerer, StreamingAnswerer):
        for answered in answerer.stream(
            (variant, history_of(variant)) for batch in batched for variant in batch
        ):
            yield [answered]
        return
    for batch in batched:
        start = time.perf_counter()
        answers = answerer.answer(batch, history_of(batch[0]))
        seconds = (time.perf_counter() - start) / len(batch)
        yield [(variant, answer, seconds) for variant, answer in zip(batch, answers, strict=True)]


def batches(questions: Sequence[Question], context: str, size: int) -> Iterator[list[Question]]:
    """Yields batches of at most `size` questions of similar length; in a context with history, all of one
    history."""
    groups = grouped(("" if context == "none" else question.history_id, question) for question in questions)
    for group in groups.values():
        group.sort(key=lambda question: (len(final_message(question)), question.row))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def result_row(
    variant: Question, answer: Answer, seconds: float, history: History, judged: bool = False
) -> ResultRow:
    """One row of `results.jsonl`: the question, the answer and its score (None for an open-ended answer that
    a judge is to score)."""
    from reward import exact_match, mcq_letter, personamem
    from reward.mcq import answer_part

    question, order, sample = variant_parts(variant.id)
    if variant.open_ended:
        answered = "text" if answer_part(answer.completion).strip() else None
        compared = variant.compared and not judged
        score = (
            exact_match([answer.completion], [variant.accepted], [variant.abstain])[0] if compared else None
        )
    else:
        answered = mcq_letter(answer.completion, len(variant.options))
        score = personamem([answer.completion], [variant.gold], [variant.options])[0]
    fields: dict[str, Any] = asdict(answer) | {key: getattr(variant, key) for key in ASKED}
    if variant.task != "personamem":
        fields["task"] = variant.task
    if variant.open_ended:
        fields["votes"] = []
    return ResultRow(
        id=variant.id,
        question=question,
        order=order,
        sample=sample,
        open_ended=variant.open_ended,
        history_id=variant.history_id,
        history_characters=sum(len(message.content) for message in history.messages),
        persona_id=variant.persona_id,
        labels=dict(variant.labels),
        query=variant.query,
        options=list(variant.options),
        gold=variant.gold,
        answered=answered,
        score=score,
        **{key: value for key, value in fields.items() if value or key not in ONLY_IF_THERE},
        seconds=round(seconds, 6),
    )
