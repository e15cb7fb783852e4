"""`rft evaluate`: its options, and the model, context and judge that they select.

Invariant: an option that has no effect is reported as ignored. API keys are read from the environment, never
from an option.
"""

import argparse
import glob
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.data.dataset import HUB_ID, WINDOWS, load_split
from rft.errors import DataError
from rft.evaluate.context import CONTEXTS, Context, FullHistoryContext
from rft.evaluate.rules import RULES, RuleAnswers
from rft.memory.agent import MemorySettings
from rft.runs.account import check_account

if TYPE_CHECKING:
    from reward import Judge
    from rft.evaluate.answer import Answerer, StreamingAnswerer
    from rft.evaluate.memory import MemoryAnswers
    from rft.evaluate.model_answers import ModelAnswers
    from rft.models.budget import Budget
    from rft.models.endpoint import Endpoint

logger = logging.getLogger(__name__)

# The options that each kind of answerer uses, with their defaults.
ASKING: dict[str, Any] = {
    "context": "history",
    "max_new_tokens": 1024,
    "temperature": 0.0,
    "samples": 1,
    "option_orders": 1,
    "open_ended": False,
    "no_controls": False,
}
ON_THIS_MACHINE: dict[str, Any] = {"batch_size": 8, "token_cache": "~/.cache/rft/tokens"}
ENDPOINT: dict[str, Any] = {
    "concurrency": 8,
    "attempts": 6,
    "timeout": 600.0,
    "api_key_env": None,
    "price": None,
}
RETRIEVAL: dict[str, Any] = {"passages": 10, "embedding_model": None, "embedding_base_url": None}
MEMORY: dict[str, Any] = asdict(MemorySettings())
JUDGE: dict[str, Any] = {
    "judge_model": None,
    "judge_base_url": None,
    "judge_api_key_env": None,
    "judge_price": None,
    "judge_cache": "~/.cache/rft/verdicts",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rft evaluate`."""
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--model",
        metavar="PATH|NAME",
        help=(
            "checkpoint folder (full or LoRA adapter) or Hub id; the name of a model at "
            "--base-url; or a quoted pattern such as 'out/checkpoint-*': every match is evaluated"
        ),
    )
    who.add_argument(
        "--rule",
        choices=RULES,
        help="answer by a rule; none reads the query, only 'mentioned' reads the history",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder of results.jsonl, summary.json and report.html; rerun to resume",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed for sampling and the bootstrap (default: 0)"
    )
    parser.add_argument(
        "--track",
        action="store_true",
        help="log summary, tables and an artifact to W&B (WANDB_MODE=offline needs no account)",
    )

    data = parser.add_argument_group("questions")
    data.add_argument("--data", required=True, metavar="DIR|HUB_ID", help=f"dataset folder, or {HUB_ID}")
    data.add_argument("--revision", help="commit of a dataset on the Hub")
    data.add_argument(
        "--split", default="benchmark", help="name of a CSV file in benchmark/text (default: benchmark)"
    )
    data.add_argument("--window", default="32k", choices=WINDOWS, help="history size (default: 32k)")
    data.add_argument("--exclude-personas", nargs="+", default=[], metavar="ID", help="personas to leave out")
    data.add_argument("--limit", type=_positive, metavar="N", help="only the first N questions of the split")

    asking = parser.add_argument_group("how the questions are asked")
    asking.add_argument(
        "--context", choices=CONTEXTS, help="what the model sees of the history (default: history)"
    )
    asking.add_argument(
        "--max-new-tokens", type=_positive, metavar="N", help="maximum tokens per completion (default: 1024)"
    )
    asking.add_argument(
        "--temperature", type=_temperature, help="0: greedy; 'server': left to the endpoint (default: 0)"
    )
    asking.add_argument(
        "--samples",
        type=_positive,
        metavar="N",
        help="completions per prompt, for mean, majority and pass@N (default: 1)",
    )
    asking.add_argument(
        "--option-orders",
        type=int,
        choices=range(1, 5),
        help="option rotations, for consistency and position bias (default: 1)",
    )
    asking.add_argument(
        "--open-ended",
        action="store_true",
        default=None,
        help="ask without options; a judge scores the answers",
    )
    asking.add_argument(
        "--no-controls",
        action="store_true",
        default=None,
        help="do not also ask the model without the history",
    )

    here = parser.add_argument_group("a model on this machine")
    here.add_argument("--vllm", action="store_true", help="use vLLM instead of the shared-prefix sampler")
    here.add_argument(
        "--batch-size", type=_positive, metavar="N", help="questions per batch, of one history (default: 8)"
    )
    here.add_argument(
        "--token-cache",
        metavar="DIR",
        help=f"folder of tokenized histories (default: {ON_THIS_MACHINE['token_cache']})",
    )

    there = parser.add_argument_group("a model served at an OpenAI-compatible URL")
    there.add_argument(
        "--base-url", metavar="URL", help="URL of the server, such as http://localhost:8000/v1"
    )
    there.add_argument(
        "--api-key-env",
        metavar="NAME",
        help="environment variable that contains the key (default: OPENAI_API_KEY, if set)",
    )
    there.add_argument(
        "--concurrency", type=_positive, metavar="N", help="maximum calls in flight (default: 8)"
    )
    there.add_argument(
        "--attempts", type=_positive, metavar="N", help="maximum attempts per call (default: 6)"
    )
    there.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="timeout per attempt, in seconds (default: 600)"
    )
    there.add_argument(
        "--price",
        type=_dollars,
        nargs=2,
        metavar=("IN", "OUT"),
        help="dollars per million input and output tokens",
    )
    parser.add_argument(
        "--budget", type=_dollars, metavar="DOLLARS", help="maximum total spending for --out, judge included"
    )

    retrieval = parser.add_argument_group("context retrieval")
    retrieval.add_argument(
        "--passages",
        type=_passages,
        metavar="K|fit",
        help="passages of 6 messages to show; 'fit': as many as fit into the model, at most 10 (default: 10)",
    )
    retrieval.add_argument(
        "--embedding-model", metavar="NAME", help="use dense embeddings of this model instead of BM25"
    )
    retrieval.add_argument(
        "--embedding-base-url", metavar="URL", help="URL that serves this model (default: --base-url)"
    )

    memory = parser.add_argument_group("context memory")
    memory.add_argument(
        "--chunk-tokens", type=_positive, metavar="N", help="tokens per history chunk (default: 5000)"
    )
    memory.add_argument(
        "--memory-tokens", type=_positive, metavar="N", help="maximum tokens of a memory (default: 2048)"
    )
    memory.add_argument(
        "--max-chunks", type=_positive, metavar="N", help="read only the N most recent chunks (default: all)"
    )
    memory.add_argument(
        "--reader",
        metavar="PATH",
        help=(
            "a second model that also answers from the memories; with one fixed reader for all "
            "writers, differences in accuracy come from the memories alone"
        ),
    )

    judge = parser.add_argument_group("the judge of open-ended answers")
    judge.add_argument("--judge-model", metavar="NAME")
    judge.add_argument("--judge-base-url", metavar="URL")
    judge.add_argument(
        "--judge-api-key-env",
        metavar="NAME",
        help="environment variable that contains the key (default: OPENAI_API_KEY, if set)",
    )
    judge.add_argument(
        "--judge-price",
        type=_dollars,
        nargs=2,
        metavar=("IN", "OUT"),
        help="dollars per million input and output tokens",
    )
    judge.add_argument(
        "--judge-cache",
        metavar="DIR",
        help=f"folder of verdicts, kept between runs (default: {JUDGE['judge_cache']})",
    )


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
        names = _checkpoints(args)
        summaries = {}
        for name in names:
            out = folder / Path(name).name if len(names) > 1 else folder
            answerer, blind, settings = _answerers(args, name, out, budget)
            reader = _reader(args, answerer, settings)
            asking = {key: settings[key] for key in ("samples", "option_orders") if key in settings}
            summaries[name] = evaluate(
                split,
                out,
                answerer,
                limit=args.limit,
                batch_size=settings.get("batch_size", 8),
                judge=_judge(args, settings, budget),
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
    lost = sum(summary["unanswered"] + summary["not_scored"] for summary in summaries.values())
    if lost:
        too_long = sum(summary["too_long"] for summary in summaries.values())
        said = f" ({too_long} too long for the model: see above)" if too_long else ""
        print(
            f"{lost} answers are missing or not scored{said}; run the same command again to retry them",
            file=sys.stderr,
        )
    return 1 if lost else 0


def headline(summary: dict[str, Any]) -> str:
    """One line: accuracy with its interval, sample sizes, and the accuracy of the controls."""
    if summary["accuracy"] is None:
        return (
            f"{summary['model']}, context {summary['context']}: {summary['asked']} answers, none of them"
            " scored"
        )
    low, high = summary["ci95"]
    beside = [
        f"{name}{_rule_of(summary['controls'][name])} {summary['controls'][name]['accuracy']:.1%}"
        for name in ("blind", "longest", "shortest", "strongest")
        if name in summary["controls"]
    ]
    return (
        f"{summary['model']}, context {summary['context']}: {summary['accuracy']:.1%} right "
        f"(95 % interval {low:.1%} to {high:.1%}; {summary['n']} questions, {summary['personas']} personas; "
        f"{summary['unparsed_rate']:.1%} without a readable answer"
        + (f", {summary['refused_rate']:.1%} refused" if summary["refused_rate"] else "")
        + ")"
        + (f"; controls: {', '.join(beside)}" if beside else "")
    )


def _rule_of(control: dict[str, Any]) -> str:
    return f" rule ({control['rule']})" if "rule" in control else ""


def _answerers(
    args: argparse.Namespace, name: str, out: Path, budget: "Budget | None"
) -> "tuple[Answerer | StreamingAnswerer, Answerer | StreamingAnswerer | None, dict[str, Any]]":
    """(answerer, its blind control or None, the settings in force)"""
    if args.rule:
        for key in ("base_url", "vllm"):
            if getattr(args, key):
                logger.warning("--%s is ignored: a rule does not use it", key.replace("_", "-"))
        return RuleAnswers(args.rule), None, _settings(args, {"batch_size": 8}, "a rule does not use it")
    kind = ENDPOINT if args.base_url else ON_THIS_MACHINE
    why = "the model is served at a URL" if args.base_url else "the model runs on this machine"
    settings = _settings(args, ASKING | kind | RETRIEVAL | MEMORY | JUDGE, why)
    for context, keys in (("retrieval", RETRIEVAL), ("memory", MEMORY)):
        for key in keys:
            if settings["context"] != context and getattr(args, key) is not None:
                logger.warning(
                    "--%s is ignored: the context is %s", key.replace("_", "-"), settings["context"]
                )
    for key in JUDGE:
        if not settings["open_ended"] and getattr(args, key) is not None:
            logger.warning("--%s is ignored: only --open-ended answers are judged", key.replace("_", "-"))
    if settings["samples"] > 1 and settings["temperature"] == 0:
        raise DataError(
            f"--samples {settings['samples']}: at temperature 0 all samples are the same; set --temperature,"
            " for example to 1"
        )
    if settings["open_ended"] and settings["option_orders"] > 1:
        raise DataError(
            "--option-orders with --open-ended: there are no options to rotate; omit one of the two"
        )
    blind = settings["context"] != "none" and not settings["no_controls"]
    generation = {key: settings[key] for key in ("max_new_tokens", "temperature")} | {"seed": args.seed}
    if args.base_url:
        from rft.evaluate.endpoint import EndpointAnswers

        if args.vllm:
            logger.warning("--vllm is ignored: the model is served at a URL")
        if settings["context"] == "memory":
            raise DataError(
                "--context memory: memories are written by a model on this machine; omit --base-url and name"
                " a checkpoint"
            )
        endpoint = _endpoint(args.base_url, name, settings, budget)
        there = EndpointAnswers(endpoint, _context(args, settings), **generation)
        return (
            there,
            EndpointAnswers(endpoint, FullHistoryContext("none"), **generation) if blind else None,
            settings,
        )
    from rft.evaluate.model_answers import ModelAnswers

    here = _on_this_machine(args, name, out, settings, generation)
    generation["token_cache"] = settings["token_cache"]
    return (
        here,
        ModelAnswers(here.model, FullHistoryContext("none"), **generation) if blind else None,
        settings,
    )


def _on_this_machine(
    args: argparse.Namespace, name: str, out: Path, settings: dict[str, Any], generation: dict[str, Any]
) -> "ModelAnswers":
    """A checkpoint in the selected context; errors about the context are raised before the model is
    loaded."""
    from rft.evaluate.model_answers import ModelAnswers
    from rft.models.local import LocalModel

    if settings["temperature"] is None:
        raise DataError("--temperature server: a local model has no server; give a number")
    context = None if settings["context"] == "memory" else _context(args, settings)
    if args.vllm:
        from rft.models.vllm import VLLMModel

        model: Any = VLLMModel(name)
    else:
        model = LocalModel(name)
    if context is not None:
        return ModelAnswers(model, context, token_cache=settings["token_cache"], **generation)
    from rft.evaluate.memory import MEMORIES, MemoryAnswers

    memory = MemorySettings(**{key: settings[key] for key in MEMORY})
    reading = {key: settings[key] for key in ("token_cache", "batch_size")}
    return MemoryAnswers(model, out / MEMORIES, memory, **generation, **reading)


def _reader(args: argparse.Namespace, answerer: Any, settings: dict[str, Any]) -> "MemoryAnswers | None":
    """The answerer of --reader, whose model answers from the memories of `answerer`."""
    if args.reader is None:
        return None
    # imports torch (four seconds), which an endpoint does not need
    from rft.evaluate.memory import MemoryAnswers

    if not isinstance(answerer, MemoryAnswers):
        logger.warning("--reader is ignored: it answers from memories; set --context memory")
        return None
    from rft.models.local import LocalModel

    return answerer.read_by(LocalModel(args.reader))


def _settings(args: argparse.Namespace, known: dict[str, Any], why: str) -> dict[str, Any]:
    """The options in `known` with defaults filled in; warns that other given options are ignored."""
    for key in {**ASKING, **ON_THIS_MACHINE, **ENDPOINT, **RETRIEVAL, **MEMORY, **JUDGE}:
        if key not in known and getattr(args, key) is not None:
            logger.warning("--%s is ignored: %s", key.replace("_", "-"), why)
    given = {key: getattr(args, key) for key in known if getattr(args, key) is not None}
    if given.get("temperature") == "server":
        given["temperature"] = None
    return known | given


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


def _judge(args: argparse.Namespace, settings: dict[str, Any], budget: "Budget | None") -> "Judge | None":
    if not settings.get("open_ended"):
        return None
    from reward import Judge

    if not (args.judge_model and args.judge_base_url):
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
        if args.budget is not None:
            logger.warning("--budget is ignored: no endpoint is called")
        return None
    return Budget(args.budget, folder / "spent.txt" if args.budget is not None else None)


def _checkpoints(args: argparse.Namespace) -> list[str]:
    """The models to evaluate: one, or all matches of a pattern, sorted by the number at their end."""
    if args.rule or args.base_url or not glob.has_magic(args.model):
        return [args.model or args.rule]
    found = [path for path in glob.glob(str(Path(args.model).expanduser())) if Path(path).is_dir()]
    if not found:
        raise DataError(f"{args.model}: no checkpoint folder matches this pattern")
    from rft.report.sweep import step_of

    return sorted(found, key=lambda path: (step_of(path) is None, step_of(path) or 0, path))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, found {text!r}")
    return int(text)


def _passages(text: str) -> int | str:
    return text if text == "fit" else _positive(text)


def _number(text: str, least: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {least}, found {text!r}")
    return value


def _temperature(text: str) -> float | str:
    return text if text == "server" else _number(text, "a number of at least 0, or 'server'")


def _dollars(text: str) -> float:
    return _number(text, "dollars, at least 0")


def _seconds(text: str) -> float:
    return _number(text, "seconds, at least 0")
