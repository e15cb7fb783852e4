"""Assembly of one history: a persona's conversations in a consistent order, filled up to a token budget.

Invariant: the history contains every conversation of the persona record for its window, complete. With a
budget, conversations with place "first" are shuffled; one that updates or withdraws a preference comes
anywhere after the conversations that revealed it; filler is spread evenly between conversations. Without a
budget, the record's order is final. Tokens are counted over the message contents, without a chat template, as
in the released data.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from rft.errors import DataError, ModelError
from rft.simulate.filler import fillers
from rft.simulate.grammar import shuffled
from rft.simulate.persona import system_message
from rft.simulate.persona_record import Conversation, Message, PersonaRecord

WORD = re.compile(r"\w+|[^\w\s]")
Count = Callable[[list[str]], list[int]]  # counts the tokens of texts


def count_words(texts: list[str]) -> list[int]:
    """Counts words and punctuation marks."""
    return [len(WORD.findall(text)) for text in texts]


class TokenCounter:
    """Counts tokens of texts with one tokenizer.

    Raises:
        ModelError: the tokenizer is not a fast tokenizer.
    """

    def __init__(self, tokenizer: Any):
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self.backend is None:
            raise ModelError(
                f"{getattr(tokenizer, 'name_or_path', 'this tokenizer')}: not a fast tokenizer; convert it to"
                " tokenizer.json"
            )
        self.backend.no_truncation()
        self.backend.no_padding()

    def __call__(self, texts: list[str]) -> list[int]:
        return [len(encoding) for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]


def size(count: Count, messages: Sequence[Message]) -> int:
    """Number of tokens in the contents of the messages."""
    return sum(count([message["content"] for message in messages]))


@dataclass(frozen=True)
class Assembled:
    """A history for one window.

    Attributes:
        system: the system message.
        conversations: the conversations in order, filler included.
        tokens: tokens of all messages.
        relevant_tokens: the tokens without filler, if the window was filled up.
        distance: {preference: tokens between its evidence and the end of the history}.
    """

    system: Message
    conversations: list[Conversation]
    tokens: int
    relevant_tokens: int
    distance: dict[int, int]

    @property
    def messages(self) -> list[Message]:
        """All messages of the history, the system message first."""
        return [self.system, *(message for block in self.conversations for message in block.messages)]


def order(rng: Random, conversations: list[Conversation]) -> list[Conversation]:
    """Returns the conversations in random order, each "later" one after the "first" ones about the same
    preference."""
    revealed = {c.about for c in conversations if c.place == "first"}
    ordered = shuffled(rng, [c for c in conversations if c.place == "first" or c.about not in revealed])
    for conversation in shuffled(
        rng, [c for c in conversations if c.place == "later" and c.about in revealed]
    ):
        behind = max(i for i, c in enumerate(ordered) if c.about == conversation.about) + 1
        ordered.insert(rng.randint(behind, len(ordered)), conversation)
    return ordered


def assemble(
    record: PersonaRecord,
    window: str,
    budget: int | None,
    count: Count,
    seed: int,
    whole_stories: bool = False,
) -> Assembled:
    """Assembles the history of a persona.

    Args:
        record: the persona record.
        window: name of the window.
        budget: maximum length in tokens; the result is shorter by less than one filler conversation. None:
            the record's conversations as they are.
        count: token counter.
        seed: seed of the dataset.
        whole_stories: as in `Profile`; distances leave out other conversations about the same preference.

    Raises:
        DataError: the conversations alone exceed the budget.
    """
    name = f"history-{seed}-{record.persona.id}"
    system = {"role": "system", "content": system_message(record.persona)}
    ordered = [c for c in record.conversations if c.place in ("first", "later", window)]
    if budget is not None:
        ordered = order(Random(name), ordered)
    blocks = [(block, size(count, block.messages)) for block in ordered]
    tokens = size(count, [system]) + sum(length for _, length in blocks)
    if budget is not None:
        if tokens > budget:
            raise DataError(
                f"persona {record.persona.id}: its {len(blocks)} conversations have {tokens} tokens, the"
                f" window has {budget}; give --history-tokens {tokens * 5 // 4} or more, or use a smaller"
                " profile"
            )
        filler = _filler(Random(f"{name}-filler"), window, budget - tokens, count)
        tokens += sum(length for _, length in filler)
        for number, sized in reversed(list(enumerate(filler, 1))):
            blocks.insert(round(number * len(ordered) / (len(filler) + 1)), sized)
    filled = any(block.place == window for block, _ in blocks)
    irrelevant = sum(length for block, length in blocks if block.about is None) if filled else 0
    distance = {
        block.about: sum(
            length
            for other, length in blocks[number + 1 :]
            if not (whole_stories and other.about == block.about)
        )
        for number, (block, _) in enumerate(blocks)
        if block.evidence and block.about is not None
    }
    return Assembled(system, [block for block, _ in blocks], tokens, tokens - irrelevant, distance)


def evidence(record: PersonaRecord, about: int) -> Conversation | None:
    """Returns the last conversation that is evidence for preference number `about`, or None if none reveals
    it."""
    return next((c for c in reversed(record.conversations) if c.about == about and c.evidence), None)


def _filler(rng: Random, window: str, budget: int, count: Count) -> list[tuple[Conversation, int]]:
    """Filler conversations that fit into the budget, with their tokens."""
    chosen: list[tuple[Conversation, int]] = []
    for messages in fillers(rng):
        length = size(count, messages)
        if length > budget:
            break
        chosen.append((Conversation(messages, "filler", None, evidence=False, place=window), length))
        budget -= length
    return chosen
