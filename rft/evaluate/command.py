"""`rft evaluate`: its options, and the model, context and judge that they select.

Invariant: an option that has no effect is reported as ignored. API keys are read from the environment, never
from an option.
"""

import argparse
import glob
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.data.question import Question
from rft.errors import DataError
from rft.evaluate.context import Context, FullHistoryContext
from rft.evaluate.options import ASKING, JUDGE, MEMORY, ON_THIS_MACHINE, RETRIEVAL, add_arguments
from rft.evaluate.rules import RuleAnswers
from rft.memory.agent import MemorySettings
from rft.models.options import ENDPOINT
from rft.records.summary import Control, Summary
from rft.runs.account import check_account
from rft.screen import counted
from rft.tasks.load import load_split

if TYPE_CHECKING:
    from reward import Judge
    from rft.evaluate.answer import Answerer, StreamingAnswerer
    from rft.evaluate.memory import MemoryAnswers
    from rft.models.budget import Budget
    from rft.models.endpoint import Endpoint

__all__ = ["add_arguments", "run"]  # what `rft.cli` expects of a command

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Runs `rft evaluate`.

    Returns:
        Exit code: 0; 1 if answers are missing or not scored; 130 if stopped by Ctrl-C.
    """
    from rft.evaluate.run import evaluate
    from rft.evaluate.skill import lines

    try:
        if args.track:
            check_account()
        folder = Path(args.out).expanduser()
        budget = _budget(args, folder)
        split = load_split(
            args.data, args.split, args.window, revision=args.revision, exclude_personas=args.exclude_personas
        )
        for skip in split.skipped[:5]:
            logger.warning("%s row %d skipped: %s", split.name, skip.row, skip.reason)
        if args.rule:
            _check_options(args.rule, split.questions[: args.limit])
        names = _checkpoints(args)
        summaries: dict[str, Summary] = {}
        for name in names:
            out = folder / Path(name).name if len(names) > 1 else folder
            answerer, blind, settings = _answerers(args, name, out, budget)
            reader = _reader(args, answerer)
            judge = _judge(args, settings, budget, any(q.open_ended for q in split.questions[: args.limit]))
            asking = {key: settings[key] for key in ("samples", "option_orders") if key in settings}
            summaries[name] = evaluate(
                split,
                out,
                answerer,
                limit=args.limit,
                batch_size=settings.get("batch_size", 1),
                judge=judge,
                open_ended=bool(settings.get("open_ended")),
                blind=blind,
                reader=reader,
                seed=args.seed,
                **asking,
            )
            print(headline(summaries[name]))
            if args.rule is None:  # a rule writes no words to analyse
                print("\n".join(lines(summaries[name])))
            if args.track:
                from rft.evaluate.tracking import track

                track(summaries[name], out)
        if len(names) > 1:
            from rft.report.sweep import write_sweep

            write_sweep(summaries, folder)
    except KeyboardInterrupt:
        print(
            f"\nstopped; the answers so far are in {args.out}; run the same command again to resume",
            file=sys.stderr,
        )
        return 130
    if budget is not None and budget.spent:
        print(f"spent: ${budget.spent:.4f}")
    print(f"report: {folder / 'report.html'}")
    lost = sum(summary.unanswered + summary.not_scored for summary in summaries.values())
    if lost:
        too_long = sum(summary.too_long for summary in summaries.values())
        too_long_note = f" ({too_long} too long for the model: see above)" if too_long else ""
        print(
            f"answers missing or not scored: {lost}{too_long_note}; run the same command again to retry them",
            file=sys.stderr,
        )
    return 1 if lost else 0


def headline(summary: Summary) -> str:
    """One line: accuracy with its interval, sample sizes, and the accuracy of the controls."""
    if summary.accuracy is None or summary.ci95 is None:
        answers = counted(summary.asked, "answer")
        return f"{summary.model}, context {summary.context}: {answers}, none of them scored"
    low, high = summary.ci95
    controls = summary.controls
    beside = [
        f"{name}{_rule_of(controls[name])} {controls[name].accuracy:.1%}"
        for name in ("blind", "longest", "shortest", "strongest")
        if name in controls
    ]
    return (
        f"{summary.model}, context {summary.context}: {summary.accuracy:.1%} right "
        f"(95 % interval {low:.1%} to {high:.1%}; {counted(summary.n, 'question')},"
        f" {counted(summary.personas, 'persona')}; "
        f"{summary.unparsed_rate:.1%} without a readable answer"
        + (f", {summary.refused_rate:.1%} refused" if summary.refused_rate else "")
        + ")"
        + (f"; controls: {', '.join(beside)}" if beside else "")
    )


def _check_options(rule: str, questions: Sequence[Question]) -> None:
    """Refuses a rule if no question has options to choose from; says how many have none."""
    free = sum(not question.options for question in questions)
    if free == len(questions):
        raise DataError(
            f"--rule {rule}: it chooses an option, and none of the {free} questions has any; evaluate a"
            " model, or data with options"
        )
    if free:
        logger.warning(
            "%d of %d questions have no options: the rule answers none of them, and they count as wrong",
            free,
            len(questions),
        )


def _rule_of(control: Control) -> str:
    return f" rule ({control.rule})" if control.rule is not None else ""


def _answerers(
    args: argparse.Namespace, name: str, out: Path, budget: "Budget | None"
) -> "tuple[Answerer | StreamingAnswerer, Answerer | StreamingAnswerer | None, dict[str, Any]]":
    """(answerer, its blind control or None, the settings in force)"""
    if args.rule:
        why = "a rule does not use it"
        _ignore(args, ("base_url", "vllm"), why)
        settings = _settings(args, {"batch_size": ON_THIS_MACHINE["batch_size"]}, why)
        return RuleAnswers(args.rule), None, settings
    from rft.evaluate.evaluate_model import answerers

    kind = ENDPOINT if args.base_url else ON_THIS_MACHINE
    why = "the model is served at a URL" if args.base_url else "the model runs on this machine"
    settings = _settings(args, ASKING | kind | RETRIEVAL | MEMORY | JUDGE, why)
    for context, keys in (("retrieval", RETRIEVAL), ("memory", MEMORY)):
        if settings["context"] != context:
            _ignore(args, keys, f"the context is {settings['context']}")
    if settings["samples"] > 1 and settings["temperature"] == 0:
        raise DataError(
            f"--samples {settings['samples']}: at temperature 0 all samples are the same; set --temperature,"
            " for example to 1"
        )
    if settings["open_ended"] and settings["option_orders"] > 1:
        raise DataError(
            "--option-orders with --open-ended: there are no options to rotate; omit one of the two"
        )
    asking = {key: settings[key] for key in ("max_new_tokens", "temperature")} | {"seed": args.seed}
    is_memory = settings["context"] == "memory"
    model: Any = None
    if args.base_url:
        _ignore(args, ["vllm"], why)
        if is_memory:
            raise DataError(
                "--context memory: memories are written by a model on this machine; omit --base-url and name"
                " a checkpoint"
            )
        model = _endpoint(args.base_url, name, settings, budget)
    elif settings["temperature"] is None:
        raise DataError("--temperature server: a local model has no server; give a number")
    else:
        asking["token_cache"] = settings["token_cache"]
    context_seen = None if is_memory else _context(args, settings)
    if model is None:  # loaded after the errors about the context
        from rft.models.local import LocalModel
        from rft.models.vllm import VLLMModel

        model = VLLMModel(name) if args.vllm else LocalModel(name)
    memory = MemorySettings(**{key: settings[key] for key in MEMORY})
    controls = not settings["no_controls"]
    answerer, blind = answerers(model, context_seen, out, memory, args.batch_size, controls, **asking)
    return answerer, blind, settings


def _reader(args: argparse.Namespace, answerer: Any) -> "MemoryAnswers | None":
    """The answerer of --reader, whose model answers from the memories of `answerer`."""
    if args.reader is None:
        return None
    # imports torch (four seconds), which an endpoint does not need
    from rft.evaluate.memory import MemoryAnswers

    if not isinstance(answerer, MemoryAnswers):
        _ignore(args, ["reader"], "it answers from memories; set --context memory")
        return None
    from rft.models.local import LocalModel

    return answerer.read_by(LocalModel(args.reader))


def _settings(args: argparse.Namespace, defaults: dict[str, Any], why: str) -> dict[str, Any]:
    """The options in `defaults` with the given values; warns that other given options are ignored."""
    every = ASKING | ON_THIS_MACHINE | ENDPOINT | RETRIEVAL | MEMORY | JUDGE
    _ignore(args, [key for key in every if key not in defaults], why)
    given = {key: getattr(args, key) for key in defaults if getattr(args, key) is not None}
    if given.get("temperature") == "server":
        given["temperature"] = None
    return defaults | given


def _ignore(args: argparse.Namespace, keys: Iterable[str], why: str) -> None:
    """Warns that those of the options that were given have no effect."""
    for key in keys:
        given = getattr(args, key)
        if given is not None and given is not False:  # 0 is given
            logger.warning("--%s is ignored: %s", key.replace("_", "-"), why)


def _context(args: argparse.Namespace, settings: dict[str, Any]) -> Context:
    if settings["context"] != "retrieval":
        return FullHistoryContext(settings["context"])
    from rft.evaluate.retrieval import Retrieval

    model = settings["embedding_model"]
    if not model:
        return Retrieval(settings["passages"])
    from rft.evaluate.endpoint import embedder

    url = settings["embedding_base_url"] or args.base_url
    if not url:
        raise DataError("--embedding-model: no URL serves it; set --embedding-base-url")
    if args.budget is not None:
        logger.warning("--budget does not count the calls of --embedding-model")
    return Retrieval(settings["passages"], embedder(_endpoint(url, model, ENDPOINT | settings, None)), model)


def _judge(
    args: argparse.Namespace, settings: dict[str, Any], budget: "Budget | None", has_free: bool
) -> "Judge | None":
    """The judge of answers without options. `has_free`: some questions have no options; a judge is optional
    for those."""
    if args.rule:
        return None
    if not settings["open_ended"] and not has_free:
        _ignore(args, JUDGE, "only --open-ended answers are judged")
        return None
    from reward import Judge

    if not (args.judge_model and args.judge_base_url):
        if not settings["open_ended"] and not (args.judge_model or args.judge_base_url):
            return None
        raise DataError(
            "--open-ended: answers are scored by a judge; set --judge-base-url URL --judge-model NAME"
        )
    about = (
        ENDPOINT | settings | {"api_key_env": settings["judge_api_key_env"], "price": settings["judge_price"]}
    )
    return Judge(_endpoint(args.judge_base_url, args.judge_model, about, budget), settings["judge_cache"])


def _endpoint(url: str, model: str, settings: dict[str, Any], budget: "Budget | None") -> "Endpoint":
    from rft.models.endpoint import Endpoint

    return Endpoint(
        url,
        model,
        key_variable=settings["api_key_env"],
        concurrency=settings["concurrency"],
        attempts=settings["attempts"],
        timeout=settings["timeout"],
        price=(settings["price"][0], settings["price"][1]) if settings["price"] else None,
        budget=budget,
    )


def _budget(args: argparse.Namespace, folder: Path) -> "Budget | None":
    from rft.models.budget import Budget

    if not (args.base_url or args.judge_base_url):
        _ignore(args, ["budget"], "no endpoint is called")
        return None
    return Budget(args.budget, folder / "spent.txt" if args.budget is not None else None)


def _checkpoints(args: argparse.Namespace) -> list[str]:
    """The models to evaluate: one, or all matches of a pattern, sorted by the number at their end."""
    if args.rule or args.base_url or not glob.has_magic(args.model):
        return [args.model or args.rule]
    folders = [path for path in glob.glob(str(Path(args.model).expanduser())) if Path(path).is_dir()]
    if not folders:
        raise DataError(f"{args.model}: no checkpoint folder matches this pattern")
    from rft.report.sweep import step_of

    return sorted(folders, key=lambda path: (step_of(path) is None, step_of(path) or 0, path))
