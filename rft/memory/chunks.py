"""A history in chunks that are read one after the other.

Invariant: the chunks of a history, put together, are its conversation without the persona message, in order, nothing lost;
only a message too long for a chunk is split, with a mark where it continues. No chunk has more tokens than it may.
"""

import logging
from dataclasses import dataclass
from typing import Any, Protocol

from rft.data.history import History, Message, history_id
from rft.errors import DataError

logger = logging.getLogger(__name__)

CONTINUES, CONTINUED = "\n[the message continues]", "[the message continued]\n"


@dataclass(frozen=True)
class Chunk:
    """A stretch of a conversation, itself a `History`; `first` to `last` are the indices of the messages of the whole history
    that it holds (the last one maybe in part)."""

    history: History
    first: int
    last: int

    @property
    def text(self) -> str:
        """The messages' contents, one below the other."""
        return "\n".join(message.content for message in self.history.messages)


class Tokens(Protocol):
    """What is asked of `rft.data.prompt.PromptTokens`, or of what stands in for it where there is no tokenizer."""

    tokenizer: Any

    def message_tokens(self, role: str, text: str, /) -> int:
        """Tokens that one message adds to a conversation, its markup included."""
        ...


def split(history: History, tokens: Tokens, chunk_tokens: int, max_chunks: int | None = None) -> list[Chunk]:
    """The chunks of `history`, each of at most `chunk_tokens` tokens as the chat template renders its messages.

    Where there are more than `max_chunks`, the newest are read, since what was said last is what holds; this is logged.

    Raises:
        DataError: there is no conversation beside the persona message, or `chunk_tokens` is too small for a message's markup.
    """
    if not history.turns:
        raise DataError(f"{history.path}: no conversation beside the persona message, so there is nothing to remember")
    size = _Sizes(tokens)
    offset = len(history.messages) - len(history.turns)
    pieces = [
        (offset + i, piece)
        for i, message in enumerate(history.turns)
        for piece in _pieces(message, size, chunk_tokens, history)
    ]
    groups: list[list[tuple[int, Message]]] = []
    room = 0
    for index, piece in pieces:
        needed = size(piece)
        if not groups or needed > room:
            groups.append([])
            room = chunk_tokens
        groups[-1].append((index, piece))
        room -= needed
    if max_chunks is not None and len(groups) > max_chunks:
        logger.warning("%s: %d chunks, of which the newest %d are read (max_chunks)", history.path, len(groups), max_chunks)
        groups = groups[-max_chunks:]
    return [_chunk(history, group) for group in groups]


def _chunk(history: History, group: list[tuple[int, Message]]) -> Chunk:
    messages = tuple(message for _, message in group)
    first, last = group[0][0], group[-1][0]
    path = f"{history.path}, messages {first} to {last}"
    return Chunk(History(history_id(messages), history.persona_id, path, messages), first, last)


class _Sizes:
    """Tokens of a message as the chat template renders it: no token crosses a message's opening, so sizes add up."""

    def __init__(self, tokens: Tokens):
        self.tokens = tokens
        self.markup: dict[str, int] = {}

    def __call__(self, message: Message) -> int:
        if message.role not in self.markup:  # one token more than rendered: the seams of content and markup may differ
            self.markup[message.role] = self.tokens.message_tokens(message.role, "x") + 1
        return self.markup[message.role] + len(self.content(message.content)[0])

    def content(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The token ids of a content by itself, and the characters that each covers."""
        encoded = self.tokens.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["input_ids"], encoded["offset_mapping"]


def _pieces(message: Message, size: _Sizes, most: int, history: History) -> list[Message]:
    if size(message) <= most:
        return [message]
    marks = sum(len(size.content(mark)[0]) for mark in (CONTINUES, CONTINUED))
    room = most - size(Message(message.role, "")) - marks - 2
    if room < 1:
        raise DataError(
            f"{history.path}: chunk_tokens {most} has no room for a message and its markup; give at least {most - room + 16}"
        )
    text, pieces, start = message.content, [], 0
    ends = [end for _, end in size.content(text)[1]]
    token = 0
    while start < len(text):
        last = token + room >= len(ends)
        end = len(text) if last else _word_end(text, start, max(ends[token + room - 1], start + 1))
        content = (CONTINUED if start else "") + text[start:end] + ("" if end == len(text) else CONTINUES)
        while size(Message(message.role, content)) > most:  # a piece by itself may have a few tokens more
            end = start + max(1, (end - start) * 9 // 10)
            content = (CONTINUED if start else "") + text[start:end] + CONTINUES
        pieces.append(Message(message.role, content))
        start = end
        while token < len(ends) and ends[token] <= start:
            token += 1
    return pieces


def _word_end(text: str, start: int, end: int) -> int:
    """The end of the last whole word before `end`, unless that would give up more than a quarter."""
    space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
    return space + 1 if space + 1 > start + (end - start) * 3 // 4 else end
