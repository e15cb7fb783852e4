"""Finds the preferences of one history, part by part.

Invariant: every message of the conversation is shown to the LLM once, in order, with what was found before
it. A part that does not fit into the model's window is halved until it does.
"""

from collections.abc import Callable

from rft.data.history import History
from rft.errors import DataError
from rft.llm.chat import Chat
from rft.llm.client import NoRoom
from rft.llm.forms import Unusable
from rft.memory.chunks import Chunk, split
from rft.memory.endpoint import Characters
from rft.tasks.questions.findings import Findings, reason_against
from rft.tasks.questions.preferences import Preferences
from rft.tasks.questions.prompts import FIND

CHUNK_TOKENS = 8_000
"""Tokens of a part, of four characters each; a model overlooks more in longer ones."""
SMALLEST = 500
Drop = Callable[[str, str], None]
"""Called with a place, such as "message 3" or "messages 0 to 9", and the reason why it gives no question."""


def find_preferences(history: History, chat: Chat, drop: Drop) -> Preferences:
    """Returns the preferences that the history shows.

    Args:
        history: the history.
        chat: the LLM.
        drop: called for each finding and each part that cannot be used.

    Raises:
        ServerError: the LLM cannot be used.
    """
    found = Preferences()
    if not history.turns:
        return found
    for chunk in split(history, Characters(), CHUNK_TOKENS):
        _read(chunk, CHUNK_TOKENS, history, chat, found, drop)
    for preference in found.drop_unclear():
        drop(_messages(preference.evidence), "the user has a preference of their own on this topic")
    return found


def _read(chunk: Chunk, tokens: int, history: History, chat: Chat, found: Preferences, drop: Drop) -> None:
    given = {
        "known": found.known(),
        "messages": [
            {"index": index, "role": message.role}
            | ({"date": message.date} if message.date else {})
            | {"text": message.content}
            for index, message in zip(chunk.indices, chunk.history.messages, strict=True)
        ],
    }
    try:
        findings = chat.usable(
            "findings", lambda attempt: chat.ask(Findings, FIND, given, attempt)
        ).preferences
    except NoRoom:
        if tokens < 2 * SMALLEST:
            raise
        for part in _halves(chunk, tokens // 2):
            _read(part, tokens // 2, history, chat, found, drop)
        return
    except Unusable as unusable:
        return drop(_messages(list(chunk.indices)), f"nothing was found in them: {unusable}")
    for finding in sorted(findings, key=lambda finding: finding.message):
        why = reason_against(finding, history, chunk.indices) or found.add(finding)
        if why:
            drop(f"message {finding.message}", why)


def _halves(chunk: Chunk, tokens: int) -> list[Chunk]:
    try:
        parts = split(chunk.history, Characters(), tokens)
    except DataError:  # a part that is only the instruction of a system
        return []
    return [Chunk(part.history, tuple(chunk.indices[i] for i in part.indices)) for part in parts]


def _messages(indices: list[int]) -> str:
    first, last = indices[0], indices[-1]
    return f"message {first}" if first == last else f"messages {first} to {last}"
