"""Structured answers from an LLM behind an OpenAI-compatible URL, each paid for once.

Every answer is in a persona's journal, on the disk, before it is used; the same question of the same run is answered from there,
also in the next process. A kill loses at most the answers that were on their way. What was paid is counted from the journals, so
the count and the budget hold for the whole dataset, however often it was interrupted.
"""

import hashlib
import json
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, OpenAI
from pydantic import BaseModel, ConfigDict, ValidationError

from reward.dialect import Dialect, filtered
from reward.endpoint import most_tokens, size
from reward.mcq import answer_part
from reward.reply import REFUSED, Malformed, Reply, ServerSaid, Words, read, words
from rft.errors import ServerError
from rft.simulate.profile import LlmSettings

RETRIES = 2  # of the client, for a call that got no answer


class Answer(BaseModel):
    """The base of all forms of answers: every field is required, and there are no others."""

    model_config = ConfigDict(extra="forbid")


Form = TypeVar("Form", bound=Answer)


class Unusable(Exception):
    """An answer that was given and cannot be used; the message is the reason."""


class Ledger:
    """What was spent by all threads and earlier processes. Raises ServerError instead of overdrawing the budget."""

    def __init__(self, settings: LlmSettings):
        self.settings = settings
        self.spent: Counter[str] = Counter()
        self._lock, self._under_way, self._largest, self._stopped = threading.Lock(), 0, 0.0, False

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD; 0 without prices."""
        prompt, completion = self.settings.prices or (0.0, 0.0)
        return (prompt_tokens * prompt + completion_tokens * completion) / 1e6

    def begin(self) -> None:
        """Ask leave for one more call. Each call under way is reckoned with as the dearest so far."""
        budget = self.settings.budget
        with self._lock:
            if self._stopped:
                raise ServerError("stopped")
            if budget is not None and self.spent["cost_usd"] + (self._under_way + 1) * self._largest > budget:
                raise ServerError(f"the budget of {budget:g} USD does not cover another call: {self.told()} so far; "
                                  "nothing is lost, the same command with a larger --llm-budget goes on from here")
            self._under_way += 1

    def end(self, prompt_tokens: int = 0, completion_tokens: int = 0, paid: bool = True) -> None:
        with self._lock:
            self._under_way -= 1
        if paid:
            self.book(prompt_tokens, completion_tokens)

    def book(self, prompt_tokens: int, completion_tokens: int) -> None:
        with self._lock:
            cost = self.cost(prompt_tokens, completion_tokens)
            self._largest = max(self._largest, cost)
            for name, amount in usage(prompt_tokens, completion_tokens, cost).items():
                self.spent[name] += amount  # type: ignore[assignment]

    def stop(self) -> None:
        """Let no thread begin another call."""
        with self._lock:
            self._stopped = True

    def told(self) -> str:
        return f"{self.spent['calls']:.0f} calls, {self.spent['cost_usd']:.4g} USD"


def usage(prompt_tokens: int, completion_tokens: int, cost: float) -> dict[str, float]:
    return {"calls": 1, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "cost_usd": cost}


class Journal:
    """The answers that one persona has had, in a file with one JSON object a line; a line cut short by a kill is dropped."""

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.answers[entry["key"]] = entry


class Chat:
    """Asks on behalf of one persona; `paid` sums up what its answers cost, whenever they were bought."""

    def __init__(self, client: OpenAI, settings: LlmSettings, ledger: Ledger, journal: Journal):
        self.client, self.settings, self.ledger, self.journal = client, settings, ledger, journal
        self.paid: Counter[str] = Counter()

    def ask(self, form: type[Form], instruction: str, given: dict[str, Any], attempt: int) -> Form:
        """One answer in the form of a model. `attempt` tells equal questions apart, and seeds the server's sampling.

        Raises Unusable where the answer is malformed, refused or cut off, and ServerError where there is none.
        """
        name = form.__name__.lower()
        request: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [{"role": "system", "content": instruction},
                         {"role": "user", "content": json.dumps(given, ensure_ascii=False)}],
            "response_format": {"type": "json_schema",
                                "json_schema": {"name": name, "strict": True, "schema": form.model_json_schema()}},
            "seed": attempt,
        }
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]
        entry = self.journal.answers.get(key) or self._buy(key, request)
        prompt, completion = entry["tokens"]
        self.paid.update(usage(prompt, completion, self.ledger.cost(prompt, completion)))  # type: ignore[arg-type]
        if entry["refusal"]:
            raise Unusable("the LLM refused")
        if entry["finish"] == "length":
            raise Unusable("the answer was cut off")
        try:
            return form.model_validate_json(entry["content"])
        except ValidationError:
            raise Unusable("the answer was malformed") from None

    def _buy(self, key: str, request: dict[str, Any]) -> dict[str, Any]:
        self.ledger.begin()
        try:
            completion = self.client.chat.completions.create(**request)
        except APITimeoutError:
            self.ledger.end(paid=False)
            raise Unusable(f"no answer within {self.settings.timeout:g} seconds") from None
        except APIConnectionError as error:
            self.ledger.end(paid=False)
            raise ServerError(f"{self.settings.base_url}: no connection ({error.__cause__ or error}); start the server and give "
                              "the same command again, nothing is lost") from None
        except APIError as error:
            self.ledger.end(paid=False)
            raise ServerError(f"{self.settings.base_url}: the server says: {' '.join(str(error).split())[:300]}") from None
        except BaseException:
            self.ledger.end(paid=False)
            raise
        choice, tokens = completion.choices[0], completion.usage
        entry = {"key": key, "content": choice.message.content or "", "refusal": choice.message.refusal or "",
                 "finish": choice.finish_reason,
                 "tokens": [tokens.prompt_tokens, tokens.completion_tokens] if tokens else [0, 0]}
        self.journal.add(entry)
        self.ledger.end(*entry["tokens"])
        return entry


def make_client(settings: LlmSettings) -> OpenAI:
    """The key is OPENAI_API_KEY; servers of one's own mostly want none."""
    return OpenAI(base_url=settings.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"), timeout=settings.timeout,
                  max_retries=RETRIES)
