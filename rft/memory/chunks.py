"""Splitting a history into chunks.

Invariant: the concatenated chunks are the conversation without the persona message, in order and complete. A
message is split only if it is too long for one chunk; marks show where it continues. No chunk exceeds its
token limit.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rft.data.history import History, Message, headed, history_id
from rft.errors import DataError

logger = logging.getLogger(__name__)

CONTINUES, CONTINUED = "\n[the message continues]", "[the message continued]\n"


@dataclass(frozen=True)
class Chunk:
    """Consecutive messages of a history, as a `History` of their own.

    Attributes:
        history: the messages of the chunk.
        indices: index of each message in the full history; equal for the parts of one message.
    """

    history: History
    indices: tuple[int, ...]

    @property
    def first(self) -> int:
        """Index of the first message in the full history."""
        return self.indices[0]

    @property
    def last(self) -> int:
        """Index of the last message in the full history; the chunk may contain only part of it."""
        return self.indices[-1]

    @property
    def text(self) -> str:
        """The contents of the messages, joined by newlines."""
        return "\n".join(message.content for message in self.history.messages)


class Tokens(Protocol):
    """Interface of `rft.data.prompt.PromptTokens`, and of its replacement when there is no tokenizer."""

    tokenizer: Any

    def shown(self, text: str, /) -> str:
        """Returns a text of other people as a prompt contains it: control marks are broken up."""
        ...

    def message_tokens(self, role: str, text: str, /) -> int:
        """Returns the number of tokens that one message adds to a conversation, including its markup."""
        ...


def split(history: History, tokens: Tokens, chunk_tokens: int, max_chunks: int | None = None) -> list[Chunk]:
    """Splits `history` into chunks of at most `chunk_tokens` tokens each, as rendered by the chat template.

    If there are more than `max_chunks` chunks, only the most recent ones are returned and a warning is
    logged: later messages override earlier ones.

    Raises:
        DataError: the history has only the persona message, or `chunk_tokens` is too small for a message's
            markup.
    """
    if not history.turns:
        raise DataError(
            f"{history.path}: no conversation after the persona message, so there is nothing to remember"
        )
    size = _Sizes(tokens)
    groups: list[list[tuple[int, Message]]] = []
    room = 0
    for index, message in enumerate(history.turns, start=len(history.messages) - len(history.turns)):
        for piece in _pieces(message, size, chunk_tokens, history):
            needed = size(piece)
            if not groups or needed > room:
                groups.append([])
                room = chunk_tokens
            groups[-1].append((index, piece))
            room -= needed
    if max_chunks is not None and len(groups) > max_chunks:
        logger.warning(
            "%s: %d chunks; reading only the %d most recent (max_chunks)",
            history.path,
            len(groups),
            max_chunks,
        )
        groups = groups[-max_chunks:]
    return [_chunk(history, group) for group in groups]


def _chunk(history: History, group: list[tuple[int, Message]]) -> Chunk:
    messages = tuple(message for _, message in group)
    indices = tuple(index for index, _ in group)
    path = f"{history.path}, messages {indices[0]} to {indices[-1]}"
    return Chunk(History(history_id(messages), history.persona_id, path, messages), indices)


class _Sizes:
    """Tokens of a message as rendered by the chat template. No token spans a message boundary, so sizes add
    up."""

    def __init__(self, tokens: Tokens):
        self.tokens = tokens
        self.markup: dict[str, int] = {}

    def __call__(self, message: Message) -> int:
        if message.role not in self.markup:  # +1: content and markup may join differently
            self.markup[message.role] = self.tokens.message_tokens(message.role, "x") + 1
        return self.markup[message.role] + len(self.content(self.tokens.shown(headed(message))))

    def content(self, text: str) -> list[tuple[int, int]]:
        """Returns the characters (start, end) of each token of a text alone."""
        return self.tokens.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]


def _pieces(message: Message, size: _Sizes, most: int, history: History) -> list[Message]:
    if size(message) <= most:
        return [message]
    marks = sum(len(size.content(mark)) for mark in (CONTINUES, CONTINUED))
    room = most - size(replace(message, content="")) - marks - 2
    if room < 1:
        raise DataError(
            f"{history.path}: chunk_tokens {most} is too small for a message and its markup; use at least"
            f" {most - room + 16}"
        )
    text, pieces, start = message.content, [], 0
    ends = [end for _, end in size.content(text)]
    token = 0
    while start < len(text):
        last = token + room >= len(ends)
        end = len(text) if last else _word_end(text, start, max(ends[token + room - 1], start + 1))
        content = (CONTINUED if start else "") + text[start:end] + ("" if end == len(text) else CONTINUES)
        while size(replace(message, content=content)) > most:  # a piece alone may have a few more tokens
            end = start + max(1, (end - start) * 9 // 10)
            content = (CONTINUED if start else "") + text[start:end] + CONTINUES
        pieces.append(replace(message, content=content))
        start = end
        while token < len(ends) and ends[token] <= start:
            token += 1
    return pieces


def _word_end(text: str, start: int, end: int) -> int:
    """Returns the end of the last complete word before `end`, or `end` if that would drop more than a
    quarter."""
    space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
    return space + 1 if space + 1 > start + (end - start) * 3 // 4 else end
