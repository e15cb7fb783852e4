"""Answers of a model that is served at an OpenAI-compatible URL.

Invariant: questions are sent in the given order, so that those of one history follow each other and hit the
server's prefix cache. At most `concurrency` calls are in flight, and only their prompts are in memory. Each
answer is yielded as soon as it arrives. The settings contain the server's URL and the request parameters,
never the key.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from pydantic import JsonValue

from rft.data.history import History
from rft.data.question import Question
from rft.errors import ModelError
from rft.evaluate.answer import Answer, Unanswered
from rft.evaluate.context import Context
from rft.evaluate.retrieval import Retrieval
from rft.evaluate.variants import seed_of
from rft.models.endpoint import Endpoint
from rft.models.failures import BudgetSpent, TooLong
from rft.models.failures import Unanswered as CallFailed

logger = logging.getLogger(__name__)

Asked = tuple[Question, Answer | Unanswered, float]

SHORTER = (
    "choose --context retrieval (with --passages fit) or memory, a shorter --window, or a server with a"
    " longer context"
)
EMBEDDED_AT_ONCE = 32  # texts per call; servers reject calls that are too large


class EndpointAnswers:
    """The answerer of `--model NAME --base-url URL`.

    Args:
        endpoint: the server and its model.
        context: builds the messages.
        max_new_tokens: maximum tokens per completion.
        temperature: None leaves it to the server.
        seed: seed of the sampling (unused at temperature 0).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        context: Context,
        max_new_tokens: int = 1024,
        temperature: float | None = 0.0,
        seed: int = 0,
    ):
        self.endpoint, self._context = endpoint, context
        self.name, self.context = endpoint.model, context.name
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self.settings: dict[str, JsonValue] = {
            "base_url": endpoint.base_url,
            "model": endpoint.model,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            **context.settings,
        } | ({"sampling_seed": seed} if temperature != 0 else {})
        self._warned_too_long = False

    def stream(self, asked: Iterable[tuple[Question, History | None]]) -> Iterator[Asked]:
        """Yields (question, its answer, seconds it took) as the answers arrive.

        Raises:
            EndpointError: no call to the endpoint can succeed, or the budget is spent. When the budget is
                spent, the answers of the calls in flight are yielded first.
        """
        with asyncio.Runner() as runner:
            answers = self._answers(iter(asked))
            try:
                runner.run(self.endpoint.check())
                while (answer := runner.run(anext(answers, None))) is not None:
                    yield answer
            finally:
                runner.run(self.endpoint.close())

    async def _answers(self, asked: Iterator[tuple[Question, History | None]]) -> AsyncIterator[Asked]:
        calls: set[asyncio.Task[Asked]] = set()
        stop: BudgetSpent | None = None
        while True:
            while (
                stop is None
                and len(calls) < self.endpoint.concurrency
                and (pair := next(asked, None)) is not None
            ):
                calls.add(asyncio.create_task(self._ask(*pair)))
            if not calls:
                break
            done, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            errors = [error for call in done if (error := call.exception()) is not None]
            for call in done:
                if call.exception() is None:
                    yield call.result()
            stop = stop or next((error for error in errors if isinstance(error, BudgetSpent)), None)
            if fatal := [error for error in errors if not isinstance(error, BudgetSpent)]:
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                raise fatal[0]
        if stop is not None:
            raise stop

    async def _ask(self, question: Question, history: History | None) -> Asked:
        start = time.perf_counter()
        seed = seed_of(self.seed, [question]) if self.temperature != 0 else None
        ways = self._context.ways(question, history) if isinstance(self._context, Retrieval) else None
        for messages, read in ways or [
            (self._context.messages(question, history), self._context.read(question, history))
        ]:
            try:
                reply = await self.endpoint.chat(
                    messages, max_tokens=self.max_new_tokens, temperature=self.temperature, seed=seed
                )
            except TooLong as failed:
                reason = failed
                continue
            except CallFailed as failed:
                logger.warning(
                    "question %s: not answered (%s); run the same command again to retry it",
                    question.id,
                    failed,
                )
                return question, Unanswered(too_long=False), time.perf_counter() - start
            answer = Answer(
                completion=reply.text,
                input_tokens=reply.input_tokens,
                output_tokens=reply.output_tokens,
                finished=reply.finished,
                cached_tokens=reply.cached_tokens,
                cost=reply.cost,
                failures=reply.failures,
                read=read,
                ending=reply.ending,
                adapted=reply.adapted,
            )
            return question, answer, time.perf_counter() - start
        if not self._warned_too_long:  # logged once; the others are only counted
            self._warned_too_long = True
            logger.warning("question %s: too long for %s (%s); %s", question.id, self.name, reason, SHORTER)
        return question, Unanswered(too_long=True), time.perf_counter() - start


def embedder(endpoint: Endpoint) -> Any:
    """Dense embeddings from an endpoint, for `rft.evaluate.retrieval.Retrieval`.

    Calls run one at a time. Their tokens do not count towards the budget.

    Returns:
        A function from texts to vectors; it raises ModelError if the endpoint returns no usable embeddings.
    """
    import openai

    client = openai.OpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.key(),
        max_retries=endpoint.attempts - 1,
        timeout=endpoint.timeout,
    )

    def embed(texts: Sequence[str]) -> list[list[float]]:
        embeddings: list[list[float]] = []
        try:
            for start in range(0, len(texts), EMBEDDED_AT_ONCE):
                asked = list(texts[start : start + EMBEDDED_AT_ONCE])
                answer = client.embeddings.create(model=endpoint.model, input=asked, encoding_format="float")
                vectors = [
                    [float(x) for x in item.embedding]
                    for item in sorted(answer.data, key=lambda item: item.index)
                ]
                if (
                    len(vectors) != len(asked)
                    or len({len(vector) for vector in [*embeddings, *vectors]}) != 1
                ):
                    raise ValueError(
                        f"{len(vectors)} vectors for {len(asked)} texts, or vectors of different lengths"
                    )
                embeddings += vectors
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            raise ModelError(
                f"{endpoint.base_url}: no embeddings from {endpoint.model} ({endpoint.clean(error)}); check"
                " --embedding-model"
            ) from None
        return embeddings

    return embed
