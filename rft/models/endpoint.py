"""Calls to an OpenAI-compatible server, with limited concurrency, retries, a count of failures, and a budget.

Invariant: a call ends in a reply, in `Unanswered` (this call failed) or in `EndpointError` (no call can
succeed until the user fixes something). Before each call its maximum cost is reserved, and the call is made
only if that fits into the budget. Under a budget, a small test question first checks that the server respects
a limit on the answer length. The key is read from the environment and used only in the request: no message,
setting or file contains it, and it is removed from server responses.
"""

import asyncio
import contextlib
import json
import logging
import os
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from http.client import responses
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from rft.models.budget import Budget
from rft.models.dialect import CAPS, Dialect, cap_too_large, filtered, too_long
from rft.models.failures import (
    FILTERED,
    REFUSED,
    TOO_LONG,
    UNFINISHED,
    BudgetSpent,
    EndpointError,
    TooLong,
    Trouble,
    Unanswered,
)
from rft.models.reply import Malformed, Reply, ServerSaid, Words, read, words

if TYPE_CHECKING:
    from pydantic import BaseModel

logger = logging.getLogger(__name__)

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_WAIT = 120.0  # seconds; a longer pause requested by the server is shortened to this
TOKENS_A_MESSAGE = 16  # at most, for role and markers of a message
BYTES_A_TOKEN = 12  # at most, averaged over a long text; about 4 in English
LONG_TEXT = 1000  # bytes, from which that average is meaningful
SHORTEST_SECRET = 8  # characters; a shorter key is a placeholder such as "none"
SLACK = 16  # tokens that a server may count beyond the limit, e.g. for markers
PROBE = ({"role": "user", "content": "Count from one to two hundred, every number in words."},)
PROBE_TOKENS = 16  # far fewer than the full answer needs
UNFINISHED_ANSWER = re.compile(r"could not finish|output limit was reached", re.IGNORECASE)
STRIKES = 3  # after that many failed calls and no success, the endpoint counts as broken
Result = TypeVar("Result")


class Endpoint:
    """A model behind an OpenAI-compatible URL, such as http://localhost:8000/v1.

    Args:
        base_url: base URL of the API.
        model: name of the model on the server.
        key_variable: environment variable with the key (None: OPENAI_API_KEY, if set).
        concurrency: maximum number of concurrent calls.
        attempts: maximum number of attempts per call.
        timeout: timeout per attempt, in seconds.
        price: dollars per million (input, output) tokens.
        budget: limit on spending; pass the same object to several endpoints to share it.
        back_off: seconds before the first retry, doubled for each further retry.

    Raises:
        EndpointError: the URL is invalid, the key is not set, or there is a budget without prices.
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
                f"{base_url!r}: expected the base URL of an OpenAI-compatible API, such as"
                " http://localhost:8000/v1"
            )
        if address.username or address.password or address.query:
            raise EndpointError(
                f"{address.hostname}: a base URL with a user, password or query would be written to result"
                f" files; give the key in the environment variable {key_variable or KEY_VARIABLE}"
            )
        if key_variable and not os.environ.get(key_variable):
            raise EndpointError(
                f"the environment variable {key_variable} is not set; put the key of {base_url} there"
            )
        if budget and budget.limit is not None and price is None:
            raise EndpointError(
                f"a budget needs prices: give the dollars per million tokens of {model} (0 0 if it is free)"
            )
        self.base_url, self.model = base_url.rstrip("/"), model
        self.key_variable = key_variable or KEY_VARIABLE
        self.concurrency, self.attempts, self.timeout = concurrency, attempts, timeout
        self.price, self.budget, self.back_off = price or (0.0, 0.0), budget or Budget(), back_off
        self.dialect = Dialect(lambda line: logger.warning("%s, %s: %s", self.base_url, model, line))
        self.answered = self._strikes = 0
        self._proven = self._prompts_cut = False
        self._resume_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None

    async def check(self) -> None:
        """Checks the endpoint; quick and free.

        Raises:
            EndpointError: nothing listens at the URL, the key is refused, or the server returns web pages.
        """
        import openai

        self._enter()
        try:
            async with asyncio.timeout(min(self.timeout, 20)):
                models = await self._client.models.with_raw_response.list()
        except openai.APITimeoutError:
            return  # busy: calls are retried
        except openai.APIConnectionError as error:
            raise EndpointError(
                f"{self.base_url}: nothing answers there ({self.clean(error.__cause__ or error)}); start the"
                " server or correct the URL"
            ) from None
        except openai.APIStatusError as error:
            if error.status_code != 403:  # a key may allow chats but not the list of models
                self._refuse_for_good(error.status_code, words(error.response.text), error.response)
            return
        except (TimeoutError, openai.APIError):
            return
        if models.content.lstrip().startswith(b"<"):
            raise self._not_an_api()

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float | None = None,
        seed: int | None = None,
        form: "type[BaseModel] | None" = None,
    ) -> Reply:
        """Requests the next message of the assistant.

        Args:
            messages: the conversation so far.
            max_tokens: maximum tokens of the answer.
            temperature: sampling temperature (None: the server's default).
            seed: random seed for sampling (None: the server's default).
            form: the pydantic model whose JSON is requested. The server may ignore it, so validate the text.

        Raises:
            Unanswered: this call failed; TooLong if the prompt is too long.
            EndpointError: no call can succeed; BudgetSpent if the budget does not allow the call.
        """
        self._enter()
        options = {"temperature": temperature, "seed": seed}
        async with self._slots:
            if self._counts_money:
                async with self._proving:
                    await self._prove(options)
            return await self._ask(messages, max_tokens, options | {"response_format": form})

    @property
    def _counts_money(self) -> bool:
        return self.budget.limit is not None and any(self.price)

    async def _prove(self, options: Mapping[str, Any]) -> None:
        """Checks with a small question that the server respects a limit on the answer length, as a budget
        depends on it."""
        while not self._proven:
            cap = self.dialect.cap
            await self._ask(PROBE, PROBE_TOKENS, options)
            self._proven = self.dialect.cap == cap

    async def _ask(
        self, messages: Sequence[Mapping[str, str]], max_tokens: int, options: Mapping[str, Any]
    ) -> Reply:
        failures: Counter[str] = Counter()
        while True:
            await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
            body, adapted = self.dialect.body(messages, max_tokens, **options), self.dialect.adapted
            most = self._most(body, max_tokens)
            await self.budget.reserve(most)
            spent = most  # an interrupted call may still be billed
            try:
                async with asyncio.timeout(self.timeout):
                    reply = self._priced(read(await self._post(body)), body, max_tokens)
                spent = reply.cost
                self._watch(reply, body, max_tokens)
                self.answered += 1
                return replace(reply, failures=dict(failures), adapted=adapted)
            except Exception as error:
                trouble = self._trouble(error)
                spent = most if trouble.billed else 0.0
            finally:
                self.budget.settle(most, spent)
            if trouble.kind in (FILTERED, UNFINISHED):
                self.answered += 1
                ending = "content_filter" if trouble.kind == FILTERED else ""
                return Reply("", None, None, None, bool(ending), ending, spent, dict(failures), adapted)
            if trouble.kind == TOO_LONG:
                raise TooLong(self.clean(trouble.error.message), failures)
            if self.dialect.learn(trouble.error, body):
                continue  # send it again in the form that the server accepts
            failures[trouble.kind] += 1
            if trouble.kind == REFUSED or failures.total() >= self.attempts:
                raise self._given_up(trouble, failures)
            if trouble.wait is not None:
                self._resume_at = max(self._resume_at, time.monotonic() + trouble.wait)
            else:
                await asyncio.sleep(
                    min(60.0, self.back_off * 2 ** (failures.total() - 1)) * random.uniform(0.5, 1)
                )

    async def _post(self, body: Mapping[str, Any]) -> str:
        """Returns the body of the response, with the key masked."""
        options = {k: v for k, v in body.items() if k not in ("messages", "response_format")}
        asked: dict[str, Any] = {"model": self.model, "messages": body["messages"], "extra_body": options}
        completions = self._client.chat.completions.with_raw_response
        if "response_format" in body:  # the text is returned raw, so that a broken one is paid for as well
            response = await completions.parse(**asked, response_format=body["response_format"])
        else:
            response = await completions.create(**asked)
        self._refuse_detour(response.http_response)
        text = response.content.decode("utf-8", "replace")
        return text.replace(self.key(), "***") if len(self.key()) >= SHORTEST_SECRET else text

    def _most(self, body: Mapping[str, Any], max_tokens: int) -> float:
        """Returns the maximum cost of a call in dollars. Raises BudgetSpent if the cost has no upper
        bound."""
        if self._counts_money and self.dialect.cap is None:
            raise BudgetSpent(
                f"{self.base_url}: {self.model} respects no limit on the answer length, so a budget cannot be"
                f" enforced; ${self.budget.spent:.4f} is spent; leave out {self.budget.option}, or use a"
                " server that supports max_tokens"
            )
        return self._cost(_most_read(body), max_tokens)

    def _priced(self, reply: Reply, body: Mapping[str, Any], max_tokens: int) -> Reply:
        """Adds the cost to a reply. A missing token count is replaced by its upper bound: a token has at
        least one byte."""
        wrote, size = reply.output_tokens, _bytes(reply.text)
        if wrote is None:
            wrote = max_tokens if size <= BYTES_A_TOKEN * max_tokens else size  # more than was allowed
        read_in = _most_read(body) if reply.input_tokens is None else reply.input_tokens
        # some servers report "stop" here
        at_the_limit = max_tokens <= (reply.output_tokens or 0) <= max_tokens + SLACK
        return replace(reply, cost=self._cost(read_in, wrote), finished=reply.finished and not at_the_limit)

    def _watch(self, reply: Reply, body: Mapping[str, Any], max_tokens: int) -> None:
        """Detects a server that silently ignores the limit on the answer length or a part of the prompt."""
        wrote = (
            reply.output_tokens if reply.output_tokens is not None else _bytes(reply.text) // BYTES_A_TOKEN
        )
        if (cap := next((name for name in CAPS if name in body), None)) and wrote > max_tokens + SLACK:
            self.dialect.drop(
                cap, f"wrote {wrote:,} tokens but only {max_tokens:,} were allowed, so it ignores"
            )
        sent = sum(_bytes(message["content"]) for message in body["messages"])
        tokens_read = (reply.input_tokens or 0) + (reply.cached_tokens or 0)
        if tokens_read and sent > max(LONG_TEXT, BYTES_A_TOKEN * tokens_read) and not self._prompts_cut:
            self._prompts_cut = True
            logger.warning(
                "%s, %s: a prompt of %d bytes was read as %d tokens; the server seems to truncate long"
                " prompts silently (Ollama: raise num_ctx)",
                self.base_url,
                self.model,
                sent,
                tokens_read,
            )

    def _enter(self) -> None:
        """Creates a client for the running event loop."""
        from openai import AsyncOpenAI

        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._slots, self._proving = loop, asyncio.Semaphore(self.concurrency), asyncio.Lock()
            self._client = AsyncOpenAI(
                base_url=self.base_url, api_key=self.key(), max_retries=0, timeout=self.timeout
            )

    async def close(self) -> None:
        """Closes the connections of the running event loop. Call it before the loop ends."""
        if self._loop is asyncio.get_running_loop():
            await self._client.close()
            self._loop = self._client = None

    def now(self, call: Awaitable[Result]) -> Result:
        """Runs one `check` or `chat` for code without an event loop, and closes the connections."""

        async def run() -> Result:
            try:
                return await call
            finally:
                await self.close()

        return asyncio.run(run())

    def key(self) -> str:
        """Returns the API key, for the request header only; "none" if it is not set."""
        return os.environ.get(self.key_variable) or "none"

    def clean(self, error: object) -> str:
        """Returns an error as one short line without the key."""
        line = " ".join(str(error).split())
        if isinstance(error, BaseException):
            line = line or type(error).__name__
        return line.replace(self.key(), "***")[:300] if self.key() != "none" else line[:300]

    def _said(self, trouble: "Trouble") -> str:
        """Returns why a call failed: its kind, the HTTP status with its phrase, and what the server said."""
        status = f"{trouble.status} {responses.get(trouble.status, '')}".strip() if trouble.status else ""
        kind = "" if trouble.kind == str(trouble.status) else trouble.kind
        return ": ".join(filter(None, (kind, status, self.clean(trouble.error.message))))

    def _cost(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.price[0] + output_tokens * self.price[1]) / 1e6

    def _trouble(self, error: Exception) -> "Trouble":
        """Classifies the error of a call. Raises EndpointError if no call can succeed; re-raises errors of
        other kinds."""
        import openai

        if isinstance(error, (TimeoutError, openai.APITimeoutError)):
            return Trouble("timeout", Words("no answer in time"), billed=True)
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            never_sent = type(cause).__name__.startswith("Connect")
            return Trouble("connection", Words(str(cause) or type(cause).__name__), billed=not never_sent)
        if isinstance(error, ServerSaid):
            return self._trouble_of_status(error.code, Words(str(error)), billed=True)
        if isinstance(error, openai.APIStatusError):
            return self._trouble_of_status(error.status_code, words(error.response.text), error.response)
        if isinstance(error, (openai.APIError, Malformed)):
            return Trouble("malformed", Words(str(error)), billed=True)
        raise error

    def _trouble_of_status(
        self, status: int, error: Words, response: Any = None, billed: bool = False
    ) -> "Trouble":
        """Same as `_trouble`, for an error message from the server."""
        if status in (400, 403, 422, 451) and filtered(error):
            return Trouble(FILTERED, error, billed=True)
        if status == 400 and UNFINISHED_ANSWER.search(error.message):
            return Trouble(UNFINISHED, error, billed=True)
        if status not in (401, 402, 403, 404) and too_long(error, status):
            return Trouble(TOO_LONG, error, billed=billed)
        self._refuse_for_good(status, error, response)
        if status not in (408, 409, 425, 429) and status < 500:
            return Trouble(REFUSED, error, billed=billed, status=status)
        wait = _retry_after(response.headers) if response is not None else None
        wait = min(wait, LONGEST_WAIT) if wait is not None else None
        return Trouble(str(status), error, wait, billed, status)

    def _refuse_for_good(self, status: int, error: Words, response: Any = None) -> None:
        what = self._said(Trouble(str(status), error, status=status))
        if response is not None:
            self._refuse_detour(response)
        if status in (401, 403):
            what = (
                "refuses the key in" if os.environ.get(self.key_variable) else "requires a key; put it into"
            )
            raise EndpointError(
                f"{self.base_url} {what} the environment variable {self.key_variable} ({status})"
            ) from None
        if status == 402 or (status == 429 and "insufficient_quota" in error.code):
            raise EndpointError(
                f"{self.base_url}: the account's quota is used up ({status}); top it up and run again"
            ) from None
        if status == 404 and response is not None and "chat" in str(response.request.url):
            raise EndpointError(
                f"{self.base_url}: no model {self.model!r} or no chat API there ({what}); check the "
                "model name and the URL, which often ends in /v1"
            ) from None
        if cap_too_large(error):
            raise EndpointError(
                f"{self.base_url}: {self.model} does not support answers of this length ({what}); allow"
                " fewer tokens, as with --max-new-tokens"
            ) from None

    def _refuse_detour(self, response: Any) -> None:
        """Raises EndpointError if a redirect has dropped the body of a request."""
        for hop in (*response.history, response):
            if hop.status_code in (301, 302, 303) and hop.request.method == "POST":
                there = urljoin(str(hop.request.url), hop.headers.get("location", ""))
                raise EndpointError(
                    f"{self.base_url}: the server has moved to"
                    f" {self.clean(there.removesuffix('/chat/completions'))}; use that as the base URL"
                )

    def _given_up(self, trouble: "Trouble", failures: Mapping[str, int]) -> Exception:
        """Returns the error of one call, or of the endpoint if no call has succeeded yet."""
        what = self._said(trouble)
        self._strikes += not self.answered
        nobody_there = trouble.kind == "connection" and not trouble.billed
        if self.answered or (not nobody_there and self._strikes < STRIKES):
            return Unanswered(what, failures)
        if trouble.kind == "malformed":
            return self._not_an_api()
        return EndpointError(
            f"{self.base_url}: no call has worked ({what}); check the URL, the model name and the server"
        )

    def _not_an_api(self) -> EndpointError:
        return EndpointError(
            f"{self.base_url}: the response is not from an OpenAI-compatible API; expected its base URL, such"
            " as http://localhost:8000/v1"
        )


def _most_read(body: Mapping[str, Any]) -> int:
    """Returns an upper bound on the input tokens of a request: a token has at least one byte."""
    form = body.get("response_format")
    schema = len(json.dumps(form.model_json_schema())) if form is not None else 0
    return schema + sum(_bytes(message["content"]) + TOKENS_A_MESSAGE for message in body["messages"])


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Returns the seconds to wait from a `Retry-After` header, given in seconds or as a date."""
    text = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
