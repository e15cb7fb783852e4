"""One history: a persona's conversations in an order that makes sense, filled up to a token budget with what is not about it.

Every conversation of the dossier is in the history, whole. First ones are shuffled; what updates
or withdraws something stands anywhere behind it. Filler stands evenly between conversations. Tokens are those of the message
contents by the tokenizer that was named, without a chat template, as the released data counts them.
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

BATCH = 32  # fillers written at a time


class TokenCounter:
    """Tokens of texts by one tokenizer. Raises ModelError for a tokenizer that is not a fast one."""

    def __init__(self, tokenizer: Any):
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self.backend is None:
            raise ModelError(f"{getattr(tokenizer, 'name_or_path', 'this tokenizer')}: not a fast tokenizer; convert it to "
                             "tokenizer.json")
        self.backend.no_truncation()
        self.backend.no_padding()

    def __call__(self, texts: list[str]) -> list[int]:
        return [len(encoding) for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def of(self, messages: list[Message]) -> int:
        return sum(self([message["content"] for message in messages]))


@dataclass(frozen=True)
class Assembled:
    """A history at one window. `distance[i]`: tokens between the evidence of preference i and the end."""

    messages: list[Message]
    tokens: int
    relevant_tokens: int
    distance: dict[int, int]


def order(rng: Random, conversations: list[Conversation]) -> list[Conversation]:
    """The conversations as a person would have had them."""
    told = {c.about for c in conversations if c.place == "first"}
    ordered = shuffled(rng, [c for c in conversations if c.place == "first" or c.about not in told])
    for conversation in shuffled(rng, [c for c in conversations if c.place == "later" and c.about in told]):
        behind = max(i for i, c in enumerate(ordered) if c.about == conversation.about) + 1
        ordered.insert(rng.randint(behind, len(ordered)), conversation)
    return ordered


def assemble(dossier: PersonaRecord, budget: int, count: TokenCounter, seed: int) -> Assembled:
    """The dossier's history at `budget` tokens; it stays below by less than one filler conversation.

    Raises DataError where the conversations alone are longer.
    """
    name = f"history-{seed}-{dossier.persona.id}"
    blocks = order(Random(name), dossier.conversations)
    system = {"role": "system", "content": system_message(dossier.persona)}
    lengths = [count.of(block.messages) for block in blocks]
    relevant = count.of([system]) + sum(lengths)
    if relevant > budget:
        raise DataError(f"persona {dossier.persona.id}: its {len(blocks)} conversations have {relevant} tokens, the window has "
                        f"{budget}; give --history-tokens {relevant * 5 // 4} or more, or take a smaller profile")
    filler, filler_lengths = _filler(Random(f"{name}-filler"), budget - relevant, count)
    at = [round((i + 1) * len(blocks) / (len(filler) + 1)) for i in range(len(filler))]  # number of blocks before each filler
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
    """The conversation on which the question about a preference rests: the last one that is evidence for it; None where nothing
    was told."""
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
