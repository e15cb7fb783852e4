"""Structured responses from an LLM behind an OpenAI-compatible URL, each paid for only once.

Invariant: every response is written to the persona's journal on disk before it is used, and the same request
of the same dataset is answered from the journal, also by a later process. A kill loses at most the requests
in flight. What was spent is in the ledger of the endpoint's budget, beside the journals, so the budget covers
the whole dataset, however often it was interrupted.
"""

import asyncio
import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from reward.mcq import answer_part
from rft.errors import ServerError
from rft.models.budget import Budget
from rft.models.endpoint import Endpoint
from rft.models.failures import TooLong, Unanswered
from rft.models.reply import REFUSED, Reply
from rft.simulate.profile import LlmSettings

FENCE = re.compile(r"^```\w*\n(.*)\n```$", re.DOTALL)


class Answer(BaseModel):
    """Base class of all response forms: every field is required, extra fields are errors."""

    model_config = ConfigDict(extra="forbid")


Form = TypeVar("Form", bound=Answer)
Result = TypeVar("Result")


class Unusable(Exception):
    """A response that cannot be used; the message is the reason."""


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


class Llm:
    """The endpoint, for threads: its event loop runs in a thread of its own.

    Args:
        settings: the LLM.
        folder: folder of the journals, for the ledger of what was spent.
        concurrency: maximum number of concurrent calls.

    Raises:
        EndpointError: no call can succeed.
    """

    def __init__(self, settings: LlmSettings, folder: Path, concurrency: int):
        self.settings = settings
        self.endpoint = make_endpoint(settings, folder / "spent.txt", concurrency)
        self.endpoint.now(self.endpoint.check())
        self._before = sum(len(Journal(path).answers) for path in folder.glob("*.jsonl"))
        self._stopped = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def chat(self, messages: list[dict[str, str]], form: type[Answer], seed: int) -> Reply:
        """Requests a response.

        Raises:
            Unusable: the server gave no response in time, or none that is a chat completion.
            ServerError: the server is not reachable or returned an error, the budget is spent, or `stop` was
                called.
        """
        if self._stopped:
            raise ServerError("stopped")
        longest = self.settings.max_new_tokens
        try:
            return self._run(self.endpoint.chat(messages, max_tokens=longest, seed=seed, form=form))
        except Unanswered as error:
            if "timeout" in error.failures:
                raise Unusable(f"no answer within {self.settings.timeout:g} seconds") from None
            if "malformed" in error.failures:
                raise Unusable("the answer was malformed") from None
            how = f" with --llm-max-new-tokens below {longest}" if isinstance(error, TooLong) else ""
            raise ServerError(
                f"{self.endpoint.base_url}: a call failed ({error}). Nothing is lost; rerun the same command"
                f"{how} to resume"
            ) from None

    def stop(self) -> None:
        """Makes every later `chat` raise ServerError; calls in flight are no longer retried."""
        self._stopped, self.endpoint.attempts = True, 1

    def close(self) -> None:
        """Closes the connections, after the last `chat`."""
        self._run(self.endpoint.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def told(self) -> str:
        """Human-readable number of calls and cost so far, with those of earlier processes."""
        return f"{self._before + self.endpoint.answered} calls, {self.endpoint.budget.spent:.4g} USD"

    def _run(self, call: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


class Chat:
    """Sends the requests of one persona. `paid`: usage of all its responses, including those read from the
    journal."""

    def __init__(self, llm: Llm, journal: Journal):
        self.llm, self.journal = llm, journal
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
            ServerError: as in `Llm.chat`.
        """
        messages = [
            {"role": "system", "content": instruction},
            {"role": "user", "content": json.dumps(given, ensure_ascii=False)},
        ]
        asked = [self.llm.settings.model, messages, form.model_json_schema(), attempt]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
        entry = self.journal.answers.get(key)
        if entry is None:
            entry = _entry(key, self.llm.chat(messages, form, attempt))
            self.journal.add(entry)
        self.paid.update(_usage(entry))  # type: ignore[arg-type]
        if entry["refusal"]:
            raise Unusable("the LLM refused")
        if not entry["finished"]:
            raise Unusable("the answer was cut off")
        try:
            return form.model_validate_json(entry["content"])
        except ValidationError:
            raise Unusable("the answer was malformed") from None


def make_endpoint(settings: LlmSettings, ledger: Path | None = None, concurrency: int = 1) -> Endpoint:
    """Creates the endpoint of the LLM. Raises EndpointError if a setting is invalid."""
    return Endpoint(
        settings.base_url,
        settings.model,
        key_variable=settings.key_variable,
        concurrency=concurrency,
        attempts=settings.attempts,
        timeout=settings.timeout,
        price=settings.price,
        budget=Budget(settings.budget, ledger, "--llm-budget"),
    )


def _entry(key: str, reply: Reply) -> dict[str, Any]:
    """The journal entry for a reply."""
    content = answer_part(reply.text).strip()
    return {
        "key": key,
        "content": fence[1] if (fence := FENCE.match(content)) else content,
        "refusal": (reply.text or reply.ending) if reply.ending in REFUSED else "",
        "finished": reply.finished,
        "tokens": [reply.input_tokens, reply.output_tokens],
        "cost": reply.cost,
    }


def _usage(entry: Mapping[str, Any]) -> dict[str, float]:
    """Usage of one response: tokens as reported by the server, and USD (0 without prices)."""
    tokens = zip(("prompt_tokens", "completion_tokens"), entry["tokens"], strict=True)
    counted = {name: count for name, count in tokens if count is not None}
    unknown = {} if len(counted) == 2 else {"calls_without_usage": 1.0}
    return {"calls": 1.0, "cost_usd": entry["cost"]} | counted | unknown
