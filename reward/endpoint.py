"""Calls to an OpenAI-compatible server: few at a time, repeated when they fail, counted, within a budget.

Invariant: a call ends in a reply, in `Unanswered` (this one did not work) or in `EndpointError` (none would, until
something is mended). What is spent never exceeds the budget: before a call the most that it can cost is set aside,
and a call is made only if that fits. The key comes from the environment and goes into the request alone: no message,
setting or file has it.
"""

import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_WAIT = 120.0  # seconds; a server that asks for a longer pause is treated as one that fails
TOKENS_A_MESSAGE = 16  # at most, for a message's role and markers


class EndpointError(ValueError):
    """No call to this endpoint can work before the user mends something: one line says what."""


class BudgetSpent(EndpointError):
    """The next call could cost more than what is left."""


class Unanswered(Exception):
    """One call did not work, however often it was repeated. failures: {kind: times}."""

    def __init__(self, message: str, failures: Mapping[str, int]):
        super().__init__(message)
        self.failures = dict(failures)


@dataclass(frozen=True)
class Reply:
    """What came back: text with any reasoning inside think tags, tokens as the server counts them, whether the text
    was finished, the cost in dollars, and what went wrong before (429, timeout, ...: how often).
    """

    text: str
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    finished: bool = True
    cost: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)


class Budget:
    """Dollars that several endpoints may share. limit: None for no limit. ledger: a file with a line for each amount
    spent, so that a run that is killed and started again stays within the same budget. Used from one event loop at a
    time."""

    def __init__(self, limit: float | None = None, ledger: Path | None = None):
        self.limit, self.ledger = limit, ledger
        self.spent, self.set_aside = _spent_before(ledger), 0.0
        self._waiting: list[asyncio.Future[None]] = []

    async def reserve(self, cost: float) -> None:
        """Set `cost` aside; waits while other calls hold what would be needed. Raises BudgetSpent."""
        while self.limit is not None and self.spent + self.set_aside + cost > self.limit:
            if not self.set_aside:
                raise BudgetSpent(
                    f"the budget of ${self.limit:g} does not allow another call: ${self.spent:.4f} are spent and the "
                    f"next may cost ${cost:.4f}; raise --budget and run the same command again, it goes on"
                )
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        self.set_aside += cost

    def settle(self, reserved: float, spent: float) -> None:
        """Give back what was set aside for a call and count what it cost."""
        left = self.set_aside - reserved
        self.set_aside = left if left > 1e-12 else 0.0  # sums of floats
        self.spent += spent
        if spent and self.ledger is not None:
            self.ledger.parent.mkdir(parents=True, exist_ok=True)
            with self.ledger.open("a", encoding="ascii") as file:
                file.write(f"{spent:.9f}\n")
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class Endpoint:
    """A model behind an OpenAI-compatible URL, such as http://localhost:8000/v1.

    key_variable: the environment variable with the key; a server without keys needs none. concurrency: calls at
    once; attempts: how often a call is tried; timeout: seconds for one attempt; price: dollars per million (input,
    output) tokens; budget: shared with other endpoints where they are given the same one; back_off: seconds before
    the first repetition, doubled for each further one.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str | None = None,
        concurrency: int = 8,
        attempts: int = 6,
        timeout: float = 600.0,
        price: tuple[float, float] | None = None,
        budget: Budget | None = None,
        back_off: float = 1.0,
    ):
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise EndpointError(
                f"{base_url!r}: expected the base URL of an OpenAI-compatible API, such as http://localhost:8000/v1"
            )
        if address.username or address.password or address.query:
            raise EndpointError(
                f"{address.hostname}: a base URL with a user, password or query would be written to result files; "
                f"give the key in the environment variable {key_variable or KEY_VARIABLE}"
            )
        if key_variable and not os.environ.get(key_variable):
            raise EndpointError(f"the environment variable {key_variable} is not set; put the key of {base_url} there")
        if budget and budget.limit is not None and price is None:
            raise EndpointError(f"a budget needs prices: say what a million tokens of {model} cost (0 0 where they are free)")
        self.base_url, self.model = base_url.rstrip("/"), model
        self.key_variable = key_variable or KEY_VARIABLE
        self.concurrency, self.attempts, self.timeout = concurrency, attempts, timeout
        self.price, self.budget, self.back_off = price or (0.0, 0.0), budget or Budget(), back_off
        self.answered = 0
        self._resume_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self._slots = asyncio.Semaphore(concurrency)

    async def check(self) -> None:
        """Raises EndpointError where nothing listens, the key is refused, or web pages are served; quick and free."""
        import openai

        self._enter()
        try:
            async with asyncio.timeout(min(self.timeout, 20)):
                models = await self._client.models.list()
        except openai.APITimeoutError:
            return  # busy: calls are repeated
        except openai.APIConnectionError as error:
            raise EndpointError(
                f"{self.base_url}: nothing answers there ({self.clean(error.__cause__ or error)}); start the server "
                "or correct the URL"
            ) from None
        except openai.APIStatusError as error:
            self._refuse_for_good(error)
            return
        except (TimeoutError, ValueError, openai.APIError):
            return
        if isinstance(models, str) or not hasattr(models, "data"):
            raise self._not_an_api()

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Reply:
        """The assistant's next message. temperature, seed: None leaves them to the server.

        Raises Unanswered, EndpointError, BudgetSpent.
        """
        self._enter()
        options: dict[str, Any] = {"max_completion_tokens": max_tokens}
        options |= {key: value for key, value in (("temperature", temperature), ("seed", seed)) if value is not None}
        most = self._cost(sum(len(m["content"].encode("utf-8", "replace")) + TOKENS_A_MESSAGE for m in messages), max_tokens)
        failures: Counter[str] = Counter()
        async with self._slots:
            for attempt in range(self.attempts):
                await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
                await self.budget.reserve(most)
                spent = most  # a call that breaks off may still be billed
                try:
                    async with asyncio.timeout(self.timeout):
                        response = await self._client.chat.completions.create(
                            model=self.model, messages=list(messages), **options
                        )
                    reply = self._reply(response, most, failures)
                    spent = reply.cost
                    self.answered += 1
                    return reply
                except Exception as error:
                    kind, wait, billed = self._failure(error)
                    spent = most if billed else 0.0
                    failures[kind] += 1
                    reason = self.clean(error)
                finally:
                    self.budget.settle(most, spent)
                if kind == "refused" or attempt + 1 == self.attempts:
                    break
                if wait is not None:
                    self._resume_at = max(self._resume_at, time.monotonic() + wait)
                else:
                    await asyncio.sleep(min(60.0, self.back_off * 2**attempt) * random.uniform(0.5, 1))
        if not self.answered:  # nothing ever worked, so it is not about this call
            if kind == "malformed":
                raise self._not_an_api()
            raise EndpointError(
                f"{self.base_url}: no call has worked ({kind}: {reason}); check the URL, the model name and the server"
            )
        raise Unanswered(f"{kind}: {reason}", failures)

    def _enter(self) -> None:
        """A client for the running event loop."""
        from openai import AsyncOpenAI

        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._slots = loop, asyncio.Semaphore(self.concurrency)
            self._client = AsyncOpenAI(base_url=self.base_url, api_key=self.key(), max_retries=0, timeout=self.timeout)

    def key(self) -> str:
        """For a request's header and nothing else; "none" where the server needs none."""
        return os.environ.get(self.key_variable) or "none"

    def clean(self, error: object) -> str:
        """An error in one short line without the key."""
        line = " ".join(str(error).split()) or type(error).__name__
        return line.replace(self.key(), "***")[:300] if self.key() != "none" else line[:300]

    def _cost(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.price[0] + output_tokens * self.price[1]) / 1e6

    def _failure(self, error: Exception) -> tuple[str, float | None, bool]:
        """(kind, seconds the server asks to wait, whether it may be billed). Raises EndpointError where no call can
        work, and what is no failure of a call."""
        import openai

        if isinstance(error, (TimeoutError, openai.APITimeoutError)):
            return "timeout", None, True
        if isinstance(error, openai.APIConnectionError):
            return "connection", None, False
        if isinstance(error, openai.APIStatusError):
            self._refuse_for_good(error)
            status = error.status_code
            if status not in (408, 409, 425, 429) and status < 500:
                return "refused", None, False
            wait = _retry_after(error.response.headers)
            return str(status), min(wait, LONGEST_WAIT) if wait is not None else None, False
        if isinstance(error, (openai.APIError, ValueError)) and not isinstance(error, EndpointError):
            return "malformed", None, True
        raise error

    def _refuse_for_good(self, error: Any) -> None:
        if error.status_code in (401, 403):
            what = "refuses the key in" if os.environ.get(self.key_variable) else "wants a key; put it into"
            raise EndpointError(
                f"{self.base_url} {what} the environment variable {self.key_variable} ({error.status_code})"
            ) from None
        if error.status_code == 404 and "chat" in str(error.request.url):
            raise EndpointError(
                f"{self.base_url}: no model {self.model!r} or no chat API there (404: {self.clean(error)}); check the "
                "model name, and that the URL ends as the server says, often in /v1"
            ) from None
        if error.status_code == 429 and getattr(error, "code", None) == "insufficient_quota":
            raise EndpointError(f"{self.base_url}: the account's quota is used up (429); top it up and run again") from None

    def _not_an_api(self) -> EndpointError:
        return EndpointError(
            f"{self.base_url}: what it sends is no answer of an OpenAI-compatible API; expected its base URL, such as "
            "http://localhost:8000/v1"
        )

    def _reply(self, response: Any, most: float, failures: Mapping[str, int]) -> Reply:
        """Raises ValueError where the response is not one of a chat API."""
        choices: Any = getattr(response, "choices", None)
        message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
        if message is None or not isinstance(getattr(message, "content", None), (str, type(None))):
            raise ValueError("no choices with a message in the response")
        text, extra = message.content or "", message.model_extra or {}
        reasoning = extra.get("reasoning_content") or extra.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            text = f"<think>{reasoning}</think>{text}"
        usage = getattr(response, "usage", None)
        tokens_in, tokens_out = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        return Reply(
            text=text,
            input_tokens=tokens_in,
            cached_tokens=_count(getattr(usage, "prompt_tokens_details", None), "cached_tokens"),
            output_tokens=tokens_out,
            finished=choices[0].finish_reason != "length",
            cost=self._cost(tokens_in, tokens_out) if tokens_in else most,
            failures=dict(failures),
        )


def _spent_before(ledger: Path | None) -> float:
    if ledger is None or not ledger.exists():
        return 0.0
    lines = ledger.read_text(encoding="ascii", errors="replace").splitlines()
    return sum(
        float(line) for line in lines if re.fullmatch(r"\d+\.\d{9}", line)
    )  # a line cut short was of a call that was killed


def _count(usage: Any, name: str) -> int:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) else 0


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `Retry-After` in seconds or as a date."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
