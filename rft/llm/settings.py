"""Which LLM writes, and how often it is asked: settings, and their command line options.

Invariant: the options mean the same in every command; only the one for votes may have another name.
"""

import argparse
from dataclasses import dataclass
from typing import Any

from rft.models.options import ENDPOINT, add_options, positive


@dataclass(frozen=True)
class LlmSettings:
    """An LLM behind an OpenAI-compatible URL.

    Attributes:
        base_url, model, key_variable, price, attempts, timeout: as in `rft.models.endpoint.Endpoint`.
        budget: maximum dollars to spend.
        max_new_tokens: maximum tokens per response.
        votes: judges per check of a question.
        drafts: maximum requests for each text until a response is usable.
    """

    base_url: str
    model: str
    key_variable: str | None = None
    price: tuple[float, float] | None = None
    budget: float | None = None
    attempts: int = 6
    timeout: float = 600.0
    max_new_tokens: int = 4096
    votes: int = 3
    drafts: int = 5


def add_llm_options(parser: Any, votes: str = "--llm-votes") -> None:
    """Adds the options of an LLM to a parser or a group of it; `votes` is the name of the one for votes."""
    add_options(parser, "base-url", "api-key-env", "price", "budget", "timeout", "attempts", prefix="llm-")
    parser.add_argument("--llm-model", metavar="NAME", help="model name on that server")
    for option, field, metavar, what in (
        ("--llm-max-new-tokens", "max_new_tokens", "N", "maximum tokens per response"),
        (votes, "votes", "K", "judge votes per check of a question"),
        ("--llm-drafts", "drafts", "N", "maximum drafts of a text until one passes the checks"),
    ):
        parser.add_argument(
            option,
            dest=f"llm_{field}",
            type=positive,
            metavar=metavar,
            default=getattr(LlmSettings, field),
            help=f"{what} (default: %(default)s)",
        )


def llm_settings(args: argparse.Namespace) -> LlmSettings:
    """Returns the settings that the options of `add_llm_options` give."""
    return LlmSettings(
        args.llm_base_url,
        args.llm_model,
        key_variable=args.llm_api_key_env,
        price=tuple(args.llm_price) if args.llm_price else None,
        budget=args.llm_budget,
        attempts=args.llm_attempts or ENDPOINT["attempts"],
        timeout=ENDPOINT["timeout"] if args.llm_timeout is None else args.llm_timeout,
        max_new_tokens=args.llm_max_new_tokens,
        votes=args.llm_votes,
        drafts=args.llm_drafts,
    )
