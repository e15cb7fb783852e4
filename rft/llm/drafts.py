"""Drafts of a question: a query, the right answer, three wrong ones, each of a drawn number of words.

Invariant: a draft is used only if its gold is the longest or the shortest option exactly if that was drawn,
so that lengths give nothing away.
"""

from random import Random

from rft.data.faults import Item
from rft.llm.forms import Answer, Unusable

WORDS = (18, 24, 30, 36)  # word counts of the four options; the one of the gold is drawn


class Options(Answer):
    query: str
    gold: str
    distractors: list[str]


def draw_words(rng: Random, gold: int | None = None) -> list[int]:
    """Returns the numbers of words to ask for, that of the gold first; `gold`: its number, if it is not to be
    drawn."""
    if gold is None:
        return rng.sample(WORDS, len(WORDS))
    return [gold, *rng.sample([words for words in WORDS if words != gold], len(WORDS) - 1)]


def check_length(item: Item, words: int) -> None:
    """Raises Unusable unless the gold is longest, shortest or neither, as `words` of WORDS says."""
    others = [len(d) for d in item.distractors]
    longest, shortest = len(item.gold) > max(others), len(item.gold) < min(others)
    if longest != (words == max(WORDS)) or shortest != (words == min(WORDS)):
        raise Unusable("the gold's length is not the one that was drawn for it")
