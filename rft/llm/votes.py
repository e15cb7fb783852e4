"""What judges are asked about a question: to guess it without the history, and which options use a
preference.

Invariant: of four successive judges, each sees the gold under another letter. So a judge who always chooses
the same letter, for example because a text told it to, is outvoted, with three judges or more.
"""

from random import Random
from typing import Any, Literal

from reward.mcq import LETTERS
from rft.data.faults import Item
from rft.llm.chat import Chat
from rft.llm.forms import Answer

BLIND = "You know nothing about the user. Choose the answer that you think is the best for them."
USES = (
    "You see a preference, a query and four answers. Return the letters of all answers that make use of the"
    " preference, and whether the query itself already tells it."
)


class Blind(Answer):
    letter: Literal["a", "b", "c", "d"]


class Uses(Answer):
    letters: list[Literal["a", "b", "c", "d"]]
    query_tells: bool


def vote_blind(chat: Chat, item: Item, attempt: int) -> None:
    """Raises Unusable unless most judges without the history choose another option than the gold."""

    def misses(vote: int) -> bool:
        shown, gold = lettered(item, f"blind-{attempt}", vote)
        return chat.ask(Blind, BLIND, {"query": item.query, "answers": shown}, vote).letter != gold

    chat.vote("a reader without the history chooses the gold", misses)


def vote_uses(chat: Chat, item: Item, preference: str, own: bool, attempt: int) -> None:
    """Raises Unusable unless most judges find that the query does not tell the preference, and that the gold
    alone uses it; if the preference is not `own`, that the gold does not use it."""

    def as_required(vote: int) -> bool:
        shown, gold = lettered(item, f"uses-{attempt}", vote)
        given: dict[str, Any] = {"preference": preference, "query": item.query, "answers": shown}
        judged = chat.ask(Uses, USES, given, vote)
        used = set(judged.letters)
        return not judged.query_tells and (used == {gold} if own else gold not in used)

    chat.vote("the options do not use the preference as they must", as_required)


def lettered(item: Item, seed: str, vote: int) -> tuple[dict[str, str], str]:
    """Returns the options by letter, in a random order that successive votes rotate, and the letter of the
    gold."""
    options = [item.gold, *item.distractors]
    Random(f"{seed}-{item.query}").shuffle(options)
    start = vote % len(options)
    options = options[start:] + options[:start]
    return dict(zip(LETTERS, options, strict=False)), LETTERS[options.index(item.gold)]
