"""Options of `rft evaluate`: their defaults by kind of answerer, and their types."""

import argparse
from dataclasses import asdict
from typing import Any

from rft.data.question import MOST
from rft.evaluate.answer import BATCH_SIZE, HISTORIES_AT_ONCE
from rft.evaluate.context import CONTEXTS
from rft.evaluate.rules import RULES
from rft.memory.agent import MemorySettings
from rft.models.options import add_options, number, positive
from rft.tasks.personamem.dataset import HUB_ID, WINDOWS

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
ON_THIS_MACHINE: dict[str, Any] = {"batch_size": BATCH_SIZE, "token_cache": "~/.cache/rft/tokens"}
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
        "--split",
        default="benchmark",
        help="name of a CSV or JSON lines file of the dataset (default: benchmark)",
    )
    data.add_argument("--window", default="32k", choices=WINDOWS, help="history size (default: 32k)")
    data.add_argument("--exclude-personas", nargs="+", default=[], metavar="ID", help="personas to leave out")
    data.add_argument("--limit", type=positive, metavar="N", help="only the first N questions of the split")

    asking = parser.add_argument_group("how the questions are asked")
    asking.add_argument(
        "--context", choices=CONTEXTS, help="what the model sees of the history (default: history)"
    )
    asking.add_argument(
        "--max-new-tokens", type=positive, metavar="N", help="maximum tokens per completion (default: 1024)"
    )
    asking.add_argument(
        "--temperature", type=_temperature, help="0: greedy; 'server': left to the endpoint (default: 0)"
    )
    asking.add_argument(
        "--samples",
        type=positive,
        metavar="N",
        help="completions per prompt, for mean, majority and pass@N (default: 1)",
    )
    asking.add_argument(
        "--option-orders",
        type=int,
        choices=range(1, MOST + 1),
        metavar="N",
        help="option rotations, at most one per option, for consistency and position bias (default: 1)",
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
        "--batch-size",
        type=positive,
        metavar="N",
        help=(
            f"questions per batch, of one history (default: {BATCH_SIZE}); histories whose memories are"
            f" written at the same time (default: {HISTORIES_AT_ONCE})"
        ),
    )
    here.add_argument(
        "--token-cache",
        metavar="DIR",
        help=f"folder of tokenized histories (default: {ON_THIS_MACHINE['token_cache']})",
    )

    there = parser.add_argument_group("a model served at an OpenAI-compatible URL")
    add_options(there, "base-url", "api-key-env", "concurrency", "attempts", "timeout", "price")
    add_options(parser, "budget")

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
        "--chunk-tokens",
        type=positive,
        metavar="N",
        help=f"tokens per history chunk (default: {MEMORY['chunk_tokens']})",
    )
    memory.add_argument(
        "--memory-tokens",
        type=positive,
        metavar="N",
        help=f"maximum tokens of a memory (default: {MEMORY['memory_tokens']})",
    )
    memory.add_argument(
        "--max-chunks", type=positive, metavar="N", help="read only the N most recent chunks (default: all)"
    )
    memory.add_argument(
        "--reader",
        metavar="PATH",
        help=(
            "a second model that also answers from the memories; with one fixed reader for all "
            "writers, differences in accuracy come from the memories alone"
        ),
    )

    judge = parser.add_argument_group("the judge of answers without options")
    judge.add_argument("--judge-model", metavar="NAME")
    add_options(judge, "base-url", "api-key-env", "price", prefix="judge-")
    judge.add_argument(
        "--judge-cache",
        metavar="DIR",
        help=f"folder of verdicts, kept between runs (default: {JUDGE['judge_cache']})",
    )


def _passages(text: str) -> int | str:
    return text if text == "fit" else positive(text)


def _temperature(text: str) -> float | str:
    return text if text == "server" else number(text, "a number of at least 0, or 'server'")
