"""Assembly of one history: a persona's conversations in a consistent order, filled up to a token budget.

Invariant: the history contains every conversation of the persona record, complete. Conversations with place
"first" are shuffled; one that updates or withdraws a preference comes anywhere after the conversations that
revealed it. Filler is spread evenly between conversations. Tokens are counted over the message contents with
the given tokenizer, without a chat template, as in the released data.
"""

from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

from rft.errors import DataError, ModelError
from rft.simulate.filler import fillers
from rft.simulate.grammar import shuffled
from rft.simulate.persona import system_message
from rft.simulate.persona_record import Conversation, Message, PersonaRecord

BATCH = 32  # fillers generated at a time


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

    def of(self, messages: list[Message]) -> int:
        """Number of tokens in the contents of the messages."""
        return sum(self([message["content"] for message in messages]))


@dataclass(frozen=True)
class Assembled:
    """A history for one window. `distance[i]`: tokens between the evidence of preference i and the end of the
    history."""

    messages: list[Message]
    tokens: int
    relevant_tokens: int
    distance: dict[int, int]


def order(rng: Random, conversations: list[Conversation]) -> list[Conversation]:
    """Returns the conversations in random order, each "later" one after the "first" ones about the same
    preference."""
    told = {c.about for c in conversations if c.place == "first"}
    ordered = shuffled(rng, [c for c in conversations if c.place == "first" or c.about not in told])
    for conversation in shuffled(rng, [c for c in conversations if c.place == "later" and c.about in told]):
        behind = max(i for i, c in enumerate(ordered) if c.about == conversation.about) + 1
        ordered.insert(rng.randint(behind, len(ordered)), conversation)
    return ordered


def assemble(dossier: PersonaRecord, budget: int, count: TokenCounter, seed: int) -> Assembled:
    """Assembles the history of a persona.

    Args:
        dossier: the persona record.
        budget: maximum length in tokens; the result is shorter by less than one filler conversation.
        count: token counter.
        seed: seed of the dataset.

    Raises:
        DataError: the conversations alone exceed the budget.
    """
    name = f"history-{seed}-{dossier.persona.id}"
    blocks = order(Random(name), dossier.conversations)
    system = {"role": "system", "content": system_message(dossier.persona)}
    lengths = [count.of(block.messages) for block in blocks]
    relevant = count.of([system]) + sum(lengths)
    if relevant > budget:
        raise DataError(
            f"persona {dossier.persona.id}: its {len(blocks)} conversations have {relevant} tokens, the"
            f" window has {budget}; give --history-tokens {relevant * 5 // 4} or more, or use a smaller"
            " profile"
        )
    filler, filler_lengths = _filler(Random(f"{name}-filler"), budget - relevant, count)
    # number of blocks before each filler
    at = [round((i + 1) * len(blocks) / (len(filler) + 1)) for i in range(len(filler))]
    messages, distance, left = [system], {}, relevant + sum(filler_lengths) - count.of([system])
    next_filler = 0
    for number in range(len(blocks) + 1):
        while next_filler < len(filler) and at[next_filler] == number:
            messages += filler[next_filler]
            left -= filler_lengths[next_filler]
            next_filler += 1
        if number < len(blocks):
            messages += blocks[number].messages
            left -= lengths[number]
            if blocks[number].evidence:
                distance[blocks[number].about] = left
    return Assembled(messages, relevant + sum(filler_lengths), relevant, distance)


def evidence(dossier: PersonaRecord, about: int) -> Conversation | None:
    """Returns the last conversation that is evidence for preference number `about`, or None if none reveals
    it."""
    return next((c for c in reversed(dossier.conversations) if c.about == about and c.evidence), None)


def _filler(rng: Random, budget: int, count: TokenCounter) -> tuple[list[list[Message]], list[int]]:
    chosen: list[list[Message]] = []
    lengths: list[int] = []
    source, left = fillers(rng), budget
    while True:
        for messages in islice(source, BATCH):
            length = count.of(messages)
            if length > left:
                return chosen, lengths
            chosen.append(messages)
            lengths.append(length)
            left -= length
