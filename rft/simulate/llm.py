"""Structured responses from an LLM behind an OpenAI-compatible URL, each paid for only once.

Invariant: every response is written to the persona's journal on disk before it is used, and the same request
of the same dataset is answered from the journal, also by a later process. A kill loses at most the requests
in flight. Costs are summed from the journals, so usage and budget cover the whole dataset, however often it
was interrupted.
"""

import hashlib
import json
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, OpenAI
from pydantic import BaseModel, ConfigDict, ValidationError

from reward.mcq import answer_part
from rft.errors import ServerError
from rft.models.dialect import Dialect, filtered
from rft.models.endpoint import SHORTEST_SECRET, most_tokens
from rft.models.reply import REFUSED, Malformed, Reply, ServerSaid, Words, read, words
from rft.simulate.profile import LlmSettings

RETRIES = 2  # retries of the client for a call without a response
MALFORMED = "malformed"  # used as finish reason if the body is not a chat completion
FENCE = re.compile(r"^```\w*\n(.*)\n```$", re.DOTALL)

logger = logging.getLogger(__name__)


class Answer(BaseModel):
    """Base class of all response forms: every field is required, extra fields are errors."""

    model_config = ConfigDict(extra="forbid")


Form = TypeVar("Form", bound=Answer)


class Unusable(Exception):
    """A response that cannot be used; the message is the reason."""


class Ledger:
    """Usage of all threads and earlier processes, and what they learned about the server.

    Invariant: no call begins unless the budget covers it, as estimated from the most expensive call so far.
    """

    def __init__(self, settings: LlmSettings):
        self.settings = settings
        self.spent: Counter[str] = Counter()
        self.dialect = Dialect(
            lambda line: logger.warning("%s, %s: %s", settings.base_url, settings.model, line)
        )
        self._lock, self._under_way, self._largest, self._stopped = threading.Lock(), 0, 0.0, False

    def usage(self, entry: Mapping[str, Any]) -> dict[str, float]:
        """Usage of one response: tokens as reported by the server, and USD (0 without prices).

        If the server does not report a token count, the cost uses the highest possible count.
        """
        given = dict(zip(("prompt_tokens", "completion_tokens"), entry["tokens"], strict=True))
        most = entry.get("at_most", [0, 0])
        tokens = [
            bound if count is None else count for count, bound in zip(entry["tokens"], most, strict=True)
        ]
        cost = (
            sum(
                count * price for count, price in zip(tokens, self.settings.prices or (0.0, 0.0), strict=True)
            )
            / 1e6
        )
        counted = {"calls": 1.0, "cost_usd": cost} | {
            name: count for name, count in given.items() if count is not None
        }
        return counted | ({"calls_without_usage": 1.0} if None in given.values() else {})

    def begin(self) -> None:
        """Reserves one more call. Each call in flight is assumed to cost as much as the most expensive one so
        far.

        Raises:
            ServerError: the budget does not cover the call, or `stop` was called.
        """
        budget = self.settings.budget
        with self._lock:
            if self._stopped:
                raise ServerError("stopped")
            if budget is not None and self.spent["cost_usd"] + (self._under_way + 1) * self._largest > budget:
                raise ServerError(
                    f"the budget of {budget:g} USD does not cover another call: {self.told()} so far. "
                    "Nothing is lost; rerun the same command with a larger --llm-budget to resume"
                )
            self._under_way += 1

    def end(self, entry: Mapping[str, Any] | None = None) -> None:
        """Ends a call. `entry`: its journal entry, None if the call is not charged."""
        with self._lock:
            self._under_way -= 1
        if entry is not None:
            self.book(entry)

    def book(self, entry: Mapping[str, Any]) -> None:
        """Adds the usage of one journal entry."""
        with self._lock:
            used = self.usage(entry)
            self._largest = max(self._largest, used["cost_usd"])
            self.spent.update(used)  # type: ignore[arg-type]

    def stop(self) -> None:
        """Makes every later `begin` raise ServerError."""
        with self._lock:
            self._stopped = True

    def told(self) -> str:
        """Human-readable number of calls and cost so far."""
        return f"{self.spent['calls']:.0f} calls, {self.spent['cost_usd']:.4g} USD"


class Journal:
    """Responses received for one persona, as a JSON Lines file; a last line cut off by a kill is removed."""

    def __init__(self, path: Path):
        self.path = path
        self.answers: dict[str, dict[str, Any]] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with path.open("r+b") as stream:
                stream.truncate(len(whole))
        for line in whole.decode("utf-8").splitlines():
            entry = json.loads(line)
            self.answers[entry["key"]] = entry

    def add(self, entry: dict[str, Any]) -> None:
        """Appends an entry and flushes it to disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.answers[entry["key"]] = entry


class Chat:
    """Sends the requests of one persona. `paid`: usage of all its responses, including those read from the
    journal."""

    def __init__(self, client: OpenAI, settings: LlmSettings, ledger: Ledger, journal: Journal):
        self.client, self.settings, self.ledger, self.journal = client, settings, ledger, journal
        self.paid: Counter[str] = Counter()

    def ask(self, form: type[Form], instruction: str, given: dict[str, Any], attempt: int) -> Form:
        """Returns one response, parsed into a pydantic model.

        Args:
            form: class of the response.
            instruction: system prompt.
            given: content of the user message, sent as JSON.
            attempt: seed of the server's sampling; also distinguishes repeated requests.

        Raises:
            Unusable: the response is malformed, refused or cut off, or the request timed out.
            ServerError: the server is not reachable or returned an error, or the budget is spent.
        """
        name = form.__name__.lower()
        request: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [
                {"role": "system", "content": instruction},
                {"role": "user", "content": json.dumps(given, ensure_ascii=False)},
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": name, "strict": True, "schema": form.model_json_schema()},
            },
            "seed": attempt,
        }
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]
        entry = self.journal.answers.get(key) or self._buy(key, request)
        self.paid.update(self.ledger.usage(entry))  # type: ignore[arg-type]
        if entry["refusal"]:
            raise Unusable("the LLM refused")
        if entry["finish"] == "length":
            raise Unusable("the answer was cut off")
        try:
            return form.model_validate_json(entry["content"])
        except ValidationError:
            raise Unusable("the answer was malformed") from None

    def _buy(self, key: str, request: dict[str, Any]) -> dict[str, Any]:
        while True:
            body = self._body(request)
            self.ledger.begin()
            entry = None
            try:
                entry = self._entry(key, body, self._post(body))
                self.journal.add(entry)
                return entry
            except APITimeoutError:
                raise Unusable(f"no answer within {self.settings.timeout:g} seconds") from None
            except APIConnectionError as error:
                raise ServerError(
                    f"{self.settings.base_url}: no connection ({error.__cause__ or error}). Start the server"
                    " and rerun the same command; nothing is lost"
                ) from None
            except (APIError, ServerSaid) as error:
                said = words(error.response.text) if isinstance(error, APIStatusError) else Words(str(error))
            finally:
                self.ledger.end(entry)
            if filtered(said):
                entry = self._entry(key, body, Reply("", ending="content_filter"))
                self.journal.add(entry)
                self.ledger.book(entry)
                return entry
            if not self.ledger.dialect.learn(said, body):
                raise ServerError(
                    f"{self.settings.base_url}: server error: {_without_key(said.message)[:300]}"
                )

    def _body(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request body in the server's dialect. If the server refuses response_format, the prompt
        contains the schema."""
        dialect = self.ledger.dialect
        messages = request["messages"]
        if "response_format" in dialect.refused:
            schema = json.dumps(request["response_format"]["json_schema"]["schema"])
            first = {
                "role": "system",
                "content": f"{messages[0]['content']}\n\nAnswer with JSON of this schema alone: {schema}",
            }
            messages = [first, *messages[1:]]
        return dialect.body(messages, seed=request["seed"], response_format=request["response_format"])

    def _post(self, body: dict[str, Any]) -> Reply | None:
        """Returns the reply, or None if the body is malformed. Raises the exceptions of the client, and
        ServerSaid."""
        options = {name: value for name, value in body.items() if name != "messages"}
        response = self.client.chat.completions.with_raw_response.create(
            model=self.settings.model, messages=body["messages"], extra_body=options
        )
        try:
            return read(_without_key(response.content.decode("utf-8", "replace")))
        except Malformed:
            return None

    def _entry(self, key: str, body: dict[str, Any], reply: Reply | None) -> dict[str, Any]:
        """The journal entry for a reply."""
        found = reply or Reply("")
        content = answer_part(found.text).strip()
        finish = MALFORMED if reply is None else "stop" if found.finished else "length"
        entry = {
            "key": key,
            "content": fence[1] if (fence := FENCE.match(content)) else content,
            "refusal": (found.text or found.ending) if found.ending in REFUSED else "",
            "finish": finish,
            "tokens": [found.input_tokens, found.output_tokens],
        }
        if None in entry["tokens"]:
            entry["at_most"] = [most_tokens(body["messages"]), len(found.text.encode("utf-8", "replace"))]
        return entry


def _without_key(text: str) -> str:
    key = os.environ.get("OPENAI_API_KEY", "")
    return text.replace(key, "***") if len(key) >= SHORTEST_SECRET else text


def make_client(settings: LlmSettings) -> OpenAI:
    """Creates the client; the API key is read from OPENAI_API_KEY, which local servers usually do not
    need."""
    return OpenAI(
        base_url=settings.base_url,
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
        timeout=settings.timeout,
        max_retries=RETRIES,
    )
