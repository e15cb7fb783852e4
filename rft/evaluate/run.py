"""`rft evaluate`: ask every question once, keep every answer, say what they come to.

Invariant: a run that is killed and started again ends with the same summary as one that was not. The summary
is computed from the rows on disk, whoever wrote them.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.data.dataset import HUB_ID, WINDOWS, Split, load_split
from rft.data.prompt import CONTEXTS, final_message
from rft.data.question import Question
from rft.evaluate.answer import Answer, Answerer, Remembers
from rft.evaluate.results import Results, write_whole
from rft.evaluate.rules import RULES, RuleAnswers

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

MODEL_DEFAULTS: dict[str, Any] = {
    "context": "history",
    "max_new_tokens": 1024,
    "temperature": 0.0,
    "token_cache": "~/.cache/rft/tokens",
}

MEMORY_OPTIONS = ("chunk_tokens", "memory_tokens", "max_chunks")
MEMORIES = "memories"  # the folder of memories beside the results


def evaluate(
    split: Split,
    out: Path | str,
    answerer: Answerer,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    console: "Console | None" = None,
) -> dict[str, Any]:
    """Answer the first `limit` questions of `split` (None: all) and write `results.jsonl`, `summary.json` and
    `report.html` to `out`; return the summary.

    Questions that `out` already has answers to are not asked again. limit and batch_size may differ between
    the runs that fill one folder. seed: of the bootstrap. Raises DataError where `out` holds results of
    another run or cannot be written; what the answerer raises passes through, and what was answered is kept.
    """
    from rft.evaluate.report import write_evaluation_report
    from rft.evaluate.statistics import summarise

    out = Path(out).expanduser()
    questions = split.questions[:limit]
    about = {
        "context": answerer.context,
        "split": split.name,
        "window": split.window,
        "data_sha256": split.sha256,
    }
    with Results(out, about | answerer.settings, {question.id for question in split.questions}) as results:
        todo = [question for question in questions if question.id not in results.rows]
        if len(todo) < len(questions):
            logger.info(
                "%s: %d of %d answers are already here", out, len(questions) - len(todo), len(questions)
            )
        _answer_all(todo, split, answerer, batch_size, results, console)
        rows = [results.rows[question.id] for question in questions]
        extra: dict[str, Any] = {}
        if isinstance(answerer, Remembers):
            from rft.evaluate.memory import forgotten

            extra = {"forgotten": forgotten(split, answerer.folder)}
        summary = {
            "model": answerer.name,
            **about,
            **summarise(rows, seed),
            **extra,
            "questions_in_split": len(split.questions),
            "settings": dict(answerer.settings),
        }
        write_whole(out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
        write_evaluation_report(summary, rows, out / "report.html")
        if isinstance(answerer, Remembers):
            from rft.evaluate.memory import timelines
            from rft.evaluate.report import write_memory_report

            write_memory_report(summary, timelines(split, answerer.folder, rows), out / "memory.html")
    return summary


def _answer_all(
    todo: Sequence[Question],
    split: Split,
    answerer: Answerer,
    batch_size: int,
    results: Results,
    console: "Console | None",
) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[right]} right"),
        TimeRemainingColumn(),
    )
    if isinstance(answerer, Remembers):
        answerer.prepare([split.histories[history] for history in dict.fromkeys(q.history_id for q in todo)])
    answered, right = 0, 0.0
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        task = progress.add_task(f"asking {escape(answerer.name)}", total=len(todo), right="0")
        for batch in batches(todo, answerer.context, batch_size):
            history = None if answerer.context == "none" else split.history_of(batch[0])
            start = time.perf_counter()
            answers = answerer.answer(batch, history)
            seconds = (time.perf_counter() - start) / len(batch)
            rows = [result_row(q, a, seconds) for q, a in zip(batch, answers, strict=True)]
            results.append(rows)
            answered, right = answered + len(rows), right + sum(row["score"] for row in rows)
            progress.update(task, completed=answered, right=f"{right / answered:.0%}")


def batches(questions: Sequence[Question], context: str, size: int) -> Iterator[list[Question]]:
    """Batches of at most `size` questions of about the same length; in a context with history, of one history."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault("" if context == "none" else question.history_id, []).append(question)
    for group in groups.values():
        group.sort(key=lambda question: (len(final_message(question)), question.row))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def result_row(question: Question, answer: Answer, seconds: float) -> dict[str, Any]:
    """One line of `results.jsonl`: what was asked, what came back, what it is worth."""
    from reward import mcq_letter, personamem

    return {
        "id": question.id,
        "history_id": question.history_id,
        "persona_id": question.persona_id,
        "labels": asdict(question.labels),
        "query": question.query,
        "options": list(question.options),
        "gold": question.gold,
        "answered": mcq_letter(answer.completion),
        "score": personamem([answer.completion], [question.gold])[0],
        "completion": answer.completion,
        "finished": answer.finished,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        **({"writing_tokens": answer.writing_tokens} if answer.writing_tokens else {}),
        "seconds": round(seconds, 6),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `rft evaluate`."""
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--model", metavar="PATH|NAME", help="checkpoint folder (full or LoRA adapter) or Hub id"
    )
    who.add_argument("--rule", choices=RULES, help="answer by a rule that reads neither query nor history")
    parser.add_argument("--data", required=True, metavar="DIR|HUB_ID", help=f"dataset folder, or {HUB_ID}")
    parser.add_argument("--revision", help="commit of a dataset on the Hub")
    parser.add_argument("--split", default="benchmark", help="CSV in benchmark/text (default: benchmark)")
    parser.add_argument("--window", default="32k", choices=WINDOWS, help="history size (default: 32k)")
    parser.add_argument(
        "--exclude-personas", nargs="+", default=[], metavar="ID", help="personas to leave out"
    )
    parser.add_argument(
        "--limit", type=_positive, metavar="N", help="only the first N questions of the split"
    )
    parser.add_argument(
        "--context",
        choices=(*CONTEXTS, "memory"),
        help="what the model sees of the history (default: history); memory: what it has itself noted of it",
    )
    parser.add_argument("--chunk-tokens", type=_positive, metavar="N", help="of a chunk, for memory (default: 5000)")
    parser.add_argument("--memory-tokens", type=_positive, metavar="N", help="budget of a memory (default: 2048)")
    parser.add_argument("--max-chunks", type=_positive, metavar="N", help="the newest chunks that are read (default: all)")
    parser.add_argument(
        "--max-new-tokens", type=_positive, metavar="N", help="of a completion (default: 1024)"
    )
    parser.add_argument("--temperature", type=_temperature, help="default: 0, greedy")
    parser.add_argument("--token-cache", metavar="DIR", help=f"default: {MODEL_DEFAULTS['token_cache']}")
    parser.add_argument(
        "--batch-size", type=_positive, default=8, help="questions answered at once (default: 8)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap and of samples (default: 0)")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="for results.jsonl, summary.json, report.html"
    )


def run(args: argparse.Namespace) -> int:
    """The exit code of `rft evaluate`: 0, or 130 where Ctrl-C stopped it."""
    try:
        split = load_split(
            args.data,
            args.split,
            args.window,
            revision=args.revision,
            exclude_personas=args.exclude_personas,
        )
        for skip in split.skipped[:5]:
            logger.warning("%s row %d skipped: %s", split.name, skip.row, skip.reason)
        summary = evaluate(
            split, args.out, _answerer(args), limit=args.limit, batch_size=args.batch_size, seed=args.seed
        )
    except KeyboardInterrupt:
        print(f"\nstopped; the answers so far are in {args.out}, the same command goes on", file=sys.stderr)
        return 130
    print(headline(summary))
    print(f"report: {Path(args.out) / 'report.html'}")
    return 0


def headline(summary: dict[str, Any]) -> str:
    """One line: accuracy with its interval, and what stands behind it."""
    low, high = summary["ci95"]
    return (
        f"{summary['model']}, context {summary['context']}: {summary['accuracy']:.1%} right "
        f"(95 % interval {low:.1%} to {high:.1%}; {summary['n']} questions, {summary['personas']} personas; "
        f"{summary['unparsed_rate']:.1%} without a readable answer)"
    )


def _answerer(args: argparse.Namespace) -> Answerer:
    given = {key: getattr(args, key) for key in MODEL_DEFAULTS if getattr(args, key) is not None}
    if args.rule:
        for key in given:
            logger.warning("--%s is ignored: a rule has no use for it", key.replace("_", "-"))
        return RuleAnswers(args.rule)
    from rft.evaluate.backend import LocalModel, ModelAnswers

    settings = MODEL_DEFAULTS | given
    memory = {key: getattr(args, key) for key in MEMORY_OPTIONS if getattr(args, key) is not None}
    if settings["context"] != "memory":
        for key in memory:
            logger.warning("--%s is ignored: it is for --context memory", key.replace("_", "-"))
        return ModelAnswers(LocalModel(args.model), seed=args.seed, **settings)
    from rft.evaluate.memory import MemoryAnswers
    from rft.memory.agent import MemorySettings

    del settings["context"]
    return MemoryAnswers(
        LocalModel(args.model),
        Path(args.out) / MEMORIES,
        MemorySettings(**memory),
        seed=args.seed,
        batch_size=args.batch_size,
        **settings,
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, found {text!r}")
    return int(text)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of 0 or more, found {text!r}")
    return value
