"""The memory agent for a model behind a URL: the prompts of `MemoryAgent` as messages, for when there is no
tokenizer.

Invariant: as in `MemoryAgent`, an update depends only on one chunk and the memory before it. Four characters
count as one token, both in chunks and in budgets.
"""

import logging
from collections.abc import Sequence
from typing import Any

from rft.data.control import inert
from rft.data.history import History
from rft.data.prompt import SYSTEM, as_said
from rft.errors import DataError, ServerError
from rft.memory import chunks, text
from rft.memory.agent import MemorySettings, answer_message, update_message
from rft.memory.chunks import Chunk
from rft.memory.text import Proposal
from rft.models.endpoint import Endpoint
from rft.models.failures import TooLong, Unanswered
from rft.models.reply import Reply

logger = logging.getLogger(__name__)

CHARACTERS_A_TOKEN = 4
TOKENS_A_MESSAGE = 8  # for role and markers


class Characters:
    """Replaces the tokenizer that `chunks.split` needs: counts characters instead of tokens."""

    def __init__(self) -> None:
        self.tokenizer = self

    def __call__(self, content: str, **options: Any) -> dict[str, Any]:
        """Returns the pseudo-tokens of a text, and the characters (start, end) of each."""
        starts = range(0, len(content), CHARACTERS_A_TOKEN)
        return {
            "input_ids": list(starts),
            "offset_mapping": [(i, min(i + CHARACTERS_A_TOKEN, len(content))) for i in starts],
        }

    def shown(self, content: str) -> str:
        """Returns a text of other people as a prompt contains it: control marks are broken up."""
        return inert(content)

    def message_tokens(self, role: str, content: str) -> int:
        """Returns the number of tokens that one message adds to a conversation."""
        return TOKENS_A_MESSAGE + len(self(content)["input_ids"])


class EndpointAgent:
    """Updates memories and answers from them with a model behind a URL.

    Args:
        endpoint: the model.
        settings: sizes of chunks and memories.
        temperature: sampling temperature (0: greedy; None: the server's default).
        seed: random seed for sampling; not sent when the temperature is 0.
    """

    def __init__(
        self, endpoint: Endpoint, settings: MemorySettings, temperature: float | None = 0.0, seed: int = 0
    ):
        self.endpoint, self.settings, self.temperature = endpoint, settings, temperature
        self.seed = seed if temperature != 0 else None
        self.tokens = Characters()

    def chunks(self, history: History) -> list[Chunk]:
        """Returns the chunks of a history. Raises DataError like `rft.memory.chunks.split`."""
        return chunks.split(history, self.tokens, self.settings.chunk_tokens, self.settings.max_chunks)

    def count(self, memory: str) -> int:
        """Returns the number of tokens of a memory."""
        return len(self.tokens(memory)["input_ids"])

    def propose(self, read: Sequence[Chunk], memories: Sequence[str]) -> list[Proposal]:
        """Returns the update of each memory after reading its chunk. Raises the same errors as `answer`."""
        return [self._update(chunk, memory) for chunk, memory in zip(read, memories, strict=True)]

    def answer(self, question: str, memory: str, max_new_tokens: int) -> str:
        """Returns the answer to `question` from `memory`.

        Raises:
            EndpointError: no call to the endpoint can succeed.
            DataError: the prompt is too long for the model.
            ServerError: this call failed.
        """
        reply = self._chat(
            [{"role": "user", "content": answer_message(memory, inert(question))}],
            max_new_tokens,
            "the question",
        )
        return reply.text or f"(no answer: {reply.ending.replace('_', ' ')})"

    def _update(self, chunk: Chunk, memory: str) -> Proposal:
        history_messages = as_said(chunk.history.messages)
        where = f"messages {chunk.first} to {chunk.last}"
        reply = self._chat(
            [*history_messages, {"role": "user", "content": update_message(memory)}],
            self.settings.memory_tokens,
            f"the chunk of {where}",
        )
        if reply.ending:
            logger.warning(
                "%s: no update received (%s); the memory is unchanged", where, reply.ending.replace("_", " ")
            )
        update = text.accept(reply.text, memory, reply.finished, self.settings.memory_tokens, self.count)
        return Proposal(update, reply.input_tokens, reply.output_tokens)

    def _chat(self, conversation: list[dict[str, str]], longest: int, what: str) -> Reply:
        messages = [{"role": "system", "content": SYSTEM}, *conversation]
        try:
            call = self.endpoint.chat(
                messages, max_tokens=longest, temperature=self.temperature, seed=self.seed
            )
            return self.endpoint.now(call)
        except TooLong as error:
            raise DataError(
                f"{what} is too long for {self.endpoint.model} ({error}); use a smaller --chunk-tokens or"
                " --memory-tokens, and another file for the memory"
            ) from None
        except Unanswered as error:
            raise ServerError(
                f"{what} got no answer ({error}); nothing is lost; run the same command again to resume"
            ) from None
