"""An LLM behind an OpenAI-compatible URL, for threads.

Invariant: what was spent is in the ledger of the endpoint's budget, beside the journals, so the budget covers
the whole dataset, however often it was interrupted.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rft.errors import ServerError
from rft.llm.forms import MALFORMED, Answer, Unusable
from rft.llm.journal import Journal
from rft.llm.settings import LlmSettings
from rft.models.budget import Budget
from rft.models.endpoint import Endpoint
from rft.models.failures import TooLong, Unanswered
from rft.models.reply import Reply

Result = TypeVar("Result")


class NoRoom(ServerError):
    """The request and its longest answer do not fit into the window of the model."""


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
        self._before = sum(Journal(path).replies for path in folder.glob("*.jsonl"))
        self._concurrency, self._stopped = concurrency, False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def chat(self, messages: list[dict[str, str]], form: type[Answer], seed: int) -> Reply:
        """Requests a response.

        Raises:
            Unusable: the server gave no response in time, or none that is a chat completion.
            ServerError: the server is not reachable or returned an error, the budget is spent, or `stop` was
                called; NoRoom if the request is too long for the model.
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
                raise Unusable(MALFORMED) from None
            kind, how = ServerError, ""
            if isinstance(error, TooLong):
                kind, how = NoRoom, f" with --llm-max-new-tokens below {longest}"
            raise kind(
                f"{self.endpoint.base_url}: a call failed ({error}). Nothing is lost; rerun the same command"
                f"{how} to resume"
            ) from None

    @contextmanager
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        """Threads that use this LLM. When the block ends, by an error too, calls in flight finish, since they
        are paid for, no other call starts, and the connections are closed."""
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            yield pool
        finally:
            self.stop()
            pool.shutdown(cancel_futures=True)
            self.close()

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
