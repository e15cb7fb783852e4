"""Calls to an OpenAI-compatible server: few at a time, repeated when they fail, counted, within a budget.

Invariant: a call ends in a reply, in `Unanswered` (this one did not work) or in `EndpointError` (none would, until
something is mended). Before a call the most that it can cost is set aside, and a call is made only if that fits into the
budget; under a budget a server first shows on a small question that it heeds a limit on its answers. The key comes from the
environment and goes into the request alone: no message, setting or file has it, nor a text that the server sends back.
"""

import asyncio
import logging
import os
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from reward.judge import CallFailed, Unreachable
from rft.errors import ServerError
from rft.models.dialect import CAPS, Dialect, cap_too_large, filtered, too_long
from rft.models.reply import Malformed, Reply, ServerSaid, Words, read, words

logger = logging.getLogger(__name__)

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_WAIT = 120.0  # seconds; a server that asks for a longer pause is treated as one that fails
TOKENS_A_MESSAGE = 16  # at most, for a message's role and markers
BYTES_A_TOKEN = 12  # at most, on average over a long text; about 4 in English
LONG_TEXT = 1000  # bytes, from which that average means something
SHORTEST_SECRET = 8  # characters; a key below is a placeholder such as "none"
SLACK = 16  # tokens that a server may count beyond the limit, such as those of markers
PROBE = ({"role": "user", "content": "Count from one to two hundred, every number in words."},)
PROBE_TOKENS = 16  # far fewer than that takes
UNFINISHED_ANSWER = re.compile(r"could not finish|output limit was reached", re.IGNORECASE)
STRIKES = 3  # calls that fail before any has worked, and it is not about one of them


class EndpointError(ServerError, Unreachable):
    """No call to this endpoint can work before the user mends something: one line says what."""


class BudgetSpent(EndpointError):
    """The next call could cost more than what is left."""


class Unanswered(CallFailed):
    """One call did not work, however often it was repeated. failures: {kind: times}."""

    def __init__(self, message: str, failures: Mapping[str, int]):
        super().__init__(message)
        self.failures = dict(failures)


class TooLong(Unanswered):
    """The prompt is more than the server reads."""


@dataclass(frozen=True)
class Trouble:
    """Why a call brought no reply. kind: one of those below, timeout, connection, malformed, or a status; said: in the server's
    words; wait: seconds that it asks to wait; billed: whether it may cost something all the same."""

    kind: str
    said: Words
    wait: float | None = None
    billed: bool = False


FILTERED, UNFINISHED, TOO_LONG, REFUSED = "filtered", "unfinished", "too long", "refused"


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
        self.dialect = Dialect(lambda line: logger.warning("%s, %s: %s", self.base_url, model, line))
        self.answered = self._strikes = 0
        self._proven = self._prompts_cut = False
        self._resume_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self._slots, self._proving = asyncio.Semaphore(concurrency), asyncio.Lock()

    async def check(self) -> None:
        """Raises EndpointError where nothing listens, the key is refused, or web pages are served; quick and free."""
        import openai

        self._enter()
        try:
            async with asyncio.timeout(min(self.timeout, 20)):
                models = await self._client.models.with_raw_response.list()
        except openai.APITimeoutError:
            return  # busy: calls are repeated
        except openai.APIConnectionError as error:
            raise EndpointError(
                f"{self.base_url}: nothing answers there ({self.clean(error.__cause__ or error)}); start the server "
                "or correct the URL"
            ) from None
        except openai.APIStatusError as error:
            if error.status_code != 403:  # a key may be good for chats and not for lists
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
    ) -> Reply:
        """The assistant's next message. temperature, seed: None leaves them to the server.

        Raises Unanswered (TooLong among them), EndpointError, BudgetSpent.
        """
        self._enter()
        options = {"temperature": temperature, "seed": seed}
        async with self._slots:
            if self._counts_money:
                async with self._proving:
                    await self._prove(options)
            return await self._ask(messages, max_tokens, options)

    @property
    def _counts_money(self) -> bool:
        return self.budget.limit is not None and any(self.price)

    async def _prove(self, options: Mapping[str, Any]) -> None:
        """See on a small question whether answers can be limited, before a budget depends on it."""
        while not self._proven:
            cap = self.dialect.cap
            await self._ask(PROBE, PROBE_TOKENS, options)
            self._proven = self.dialect.cap == cap

    async def _ask(self, messages: Sequence[Mapping[str, str]], max_tokens: int, options: Mapping[str, Any]) -> Reply:
        failures: Counter[str] = Counter()
        while True:
            await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
            body, adapted = self.dialect.body(messages, max_tokens, **options), self.dialect.adapted
            most = self._most(body["messages"], max_tokens)
            await self.budget.reserve(most)
            spent = most  # a call that breaks off may still be billed
            try:
                async with asyncio.timeout(self.timeout):
                    reply = self._priced(read(await self._post(body)), body["messages"], max_tokens)
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
                raise TooLong(self.clean(trouble.said.message), failures)
            if self.dialect.learn(trouble.said, body):
                continue  # the same once more, as the server wants it
            failures[trouble.kind] += 1
            if trouble.kind == REFUSED or failures.total() == self.attempts:
                raise self._given_up(trouble, failures)
            if trouble.wait is not None:
                self._resume_at = max(self._resume_at, time.monotonic() + trouble.wait)
            else:
                await asyncio.sleep(min(60.0, self.back_off * 2 ** (failures.total() - 1)) * random.uniform(0.5, 1))

    async def _post(self, body: Mapping[str, Any]) -> str:
        """The body of the response, the key in it hidden."""
        response = await self._client.chat.completions.with_raw_response.create(
            model=self.model, messages=body["messages"], extra_body={k: v for k, v in body.items() if k != "messages"}
        )
        self._refuse_detour(response.http_response)
        text = response.content.decode("utf-8", "replace")
        return text.replace(self.key(), "***") if len(self.key()) >= SHORTEST_SECRET else text

    def _most(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> float:
        """Dollars that a call costs at most. Raises BudgetSpent where nothing bounds them."""
        if self._counts_money and self.dialect.cap is None:
            raise BudgetSpent(
                f"{self.base_url}: {self.model} heeds no limit on its answers, so no budget can be kept; "
                f"${self.budget.spent:.4f} are spent; leave out --budget, or ask a server that takes max_tokens"
            )
        return self._cost(most_tokens(messages), max_tokens)

    def _priced(self, reply: Reply, messages: Sequence[Mapping[str, str]], max_tokens: int) -> Reply:
        """With its cost; of what the server does not count, the most that it can be: a token is at least a byte."""
        wrote, size = reply.output_tokens, _bytes(reply.text)
        if wrote is None:
            wrote = max_tokens if size <= BYTES_A_TOKEN * max_tokens else size  # more than was allowed
        read_in = most_tokens(messages) if reply.input_tokens is None else reply.input_tokens
        at_the_limit = max_tokens <= (reply.output_tokens or 0) <= max_tokens + SLACK  # which some servers call "stop"
        return replace(reply, cost=self._cost(read_in, wrote), finished=reply.finished and not at_the_limit)

    def _watch(self, reply: Reply, body: Mapping[str, Any], max_tokens: int) -> None:
        """Notice what a server ignores without a word: the limit on answers, a part of the prompt."""
        wrote = reply.output_tokens if reply.output_tokens is not None else _bytes(reply.text) // BYTES_A_TOKEN
        if (cap := next((name for name in CAPS if name in body), None)) and wrote > max_tokens + SLACK:
            self.dialect.drop(cap, f"wrote {wrote:,} tokens where {max_tokens:,} were allowed, so it ignores")
        sent = sum(_bytes(message["content"]) for message in body["messages"])
        known = (reply.input_tokens or 0) + (reply.cached_tokens or 0)
        if known and sent > max(LONG_TEXT, BYTES_A_TOKEN * known) and not self._prompts_cut:
            self._prompts_cut = True
            logger.warning(
                "%s, %s: a prompt of %d bytes was read as %d tokens; the server seems to cut long prompts without a word "
                "(Ollama: raise num_ctx)", self.base_url, self.model, sent, known
            )  # fmt: skip

    def _enter(self) -> None:
        """A client for the running event loop."""
        from openai import AsyncOpenAI

        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._slots, self._proving = loop, asyncio.Semaphore(self.concurrency), asyncio.Lock()
            self._client = AsyncOpenAI(base_url=self.base_url, api_key=self.key(), max_retries=0, timeout=self.timeout)

    async def close(self) -> None:
        """Give up the connections of the running event loop; to be called before it ends."""
        if self._loop is asyncio.get_running_loop():
            await self._client.close()
            self._loop = self._client = None

    def key(self) -> str:
        """For a request's header and nothing else; "none" where the server needs none."""
        return os.environ.get(self.key_variable) or "none"

    def clean(self, error: object) -> str:
        """An error in one short line without the key."""
        line = " ".join(str(error).split()) or type(error).__name__
        return line.replace(self.key(), "***")[:300] if self.key() != "none" else line[:300]

    def _cost(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.price[0] + output_tokens * self.price[1]) / 1e6

    def _trouble(self, error: Exception) -> "Trouble":
        """What went wrong with a call. Raises EndpointError where none can work, and what is no failure of a call."""
        import openai

        if isinstance(error, (TimeoutError, openai.APITimeoutError)):
            return Trouble("timeout", Words("no answer in time"), billed=True)
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            never_sent = type(cause).__name__.startswith("Connect")
            return Trouble("connection", Words(str(cause) or type(cause).__name__), billed=not never_sent)
        if isinstance(error, ServerSaid):
            return self._said(error.code, Words(str(error)), billed=True)
        if isinstance(error, openai.APIStatusError):
            return self._said(error.status_code, words(error.response.text), error.response)
        if isinstance(error, (openai.APIError, Malformed)):
            return Trouble("malformed", Words(str(error)), billed=True)
        raise error

    def _said(self, status: int, said: Words, response: Any = None, billed: bool = False) -> "Trouble":
        """As `_trouble`, of an error that the server has put into words."""
        if status in (400, 403, 422, 451) and filtered(said):
            return Trouble(FILTERED, said, billed=True)
        if status == 400 and UNFINISHED_ANSWER.search(said.message):
            return Trouble(UNFINISHED, said, billed=True)
        if status not in (401, 402, 403, 404) and too_long(said, status):
            return Trouble(TOO_LONG, said, billed=billed)
        self._refuse_for_good(status, said, response)
        if status not in (408, 409, 425, 429) and status < 500:
            return Trouble(REFUSED, said, billed=billed)
        wait = _retry_after(response.headers) if response is not None else None
        return Trouble(str(status), said, min(wait, LONGEST_WAIT) if wait is not None else None, billed)

    def _refuse_for_good(self, status: int, said: Words, response: Any = None) -> None:
        message = self.clean(said.message)
        if response is not None:
            self._refuse_detour(response)
        if status in (401, 403):
            what = "refuses the key in" if os.environ.get(self.key_variable) else "wants a key; put it into"
            raise EndpointError(f"{self.base_url} {what} the environment variable {self.key_variable} ({status})") from None
        if status == 402 or (status == 429 and "insufficient_quota" in said.code):
            raise EndpointError(f"{self.base_url}: the account's quota is used up ({status}); top it up and run again") from None
        if status == 404 and response is not None and "chat" in str(response.request.url):
            raise EndpointError(
                f"{self.base_url}: no model {self.model!r} or no chat API there (404: {message}); check the "
                "model name, and that the URL ends as the server says, often in /v1"
            ) from None
        if cap_too_large(said):
            raise EndpointError(
                f"{self.base_url}: {self.model} does not write such long answers ({message}); allow it fewer tokens, as with "
                "--max-new-tokens"
            ) from None

    def _refuse_detour(self, response: Any) -> None:
        """Raises EndpointError where a redirect has turned a request with a body into one without."""
        moved = next((hop for hop in [*response.history, response] if hop.status_code in (301, 302, 303)), None)
        if moved is not None and moved.request.method == "POST":
            there = urljoin(str(moved.request.url), moved.headers.get("location", "")).removesuffix("/chat/completions")
            raise EndpointError(f"{self.base_url}: the server has moved to {self.clean(there)}; give that as the base URL")

    def _given_up(self, trouble: "Trouble", failures: Mapping[str, int]) -> Exception:
        """One call's failure; that of the endpoint where nothing has worked yet."""
        reason = self.clean(trouble.said.message)
        self._strikes += not self.answered
        nobody_there = trouble.kind == "connection" and not trouble.billed
        if self.answered or (not nobody_there and self._strikes < STRIKES):
            return Unanswered(f"{trouble.kind}: {reason}", failures)
        if trouble.kind == "malformed":
            return self._not_an_api()
        return EndpointError(
            f"{self.base_url}: no call has worked ({trouble.kind}: {reason}); check the URL, the model name and the server"
        )

    def _not_an_api(self) -> EndpointError:
        return EndpointError(
            f"{self.base_url}: what it sends is no answer of an OpenAI-compatible API; expected its base URL, such as "
            "http://localhost:8000/v1"
        )


def _spent_before(ledger: Path | None) -> float:
    if ledger is None or not ledger.exists():
        return 0.0
    lines = ledger.read_text(encoding="ascii", errors="replace").splitlines()
    return sum(
        float(line) for line in lines if re.fullmatch(r"\d+\.\d{9}", line)
    )  # a line cut short was of a call that was killed


def most_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """Tokens that messages may have: a token is at least a byte."""
    return sum(_bytes(message["content"]) + TOKENS_A_MESSAGE for message in messages)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


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
