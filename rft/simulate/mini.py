"""Mini personas: preferences of a persona, conversations that reveal them, and options of the questions about
them.

Invariant: a reader without the history is at chance, in every category of questions. Three options of a
question name values of its topic and one is generic. The generic option is gold for a quarter of each
category, since each category has stories with both endings (`STORIES`). Among the three values the gold is
drawn like the others. Everything depends only on (seed, persona id).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from rft.simulate import mini_vocabulary
from rft.simulate.mini_vocabulary import Topic

# category -> (kind of fact with a value that holds at the end, kind without)
STORIES = {
    "plain": ("own", "mention"),  # the user's own value; a value mentioned as nobody's
    "changed": ("update", "ended"),  # given up for another value; given up for nothing
    "withdrawn": ("retold", "forget"),  # "forget it", and then another value; "forget it", and nothing more
    "others": ("contrast", "others"),  # a relative's value beside the user's own; a relative's value alone
}
# one question each
CATEGORIES = ("plain", "plain", "plain", "changed", "changed", "withdrawn", "others", "others")
GENERIC_SHARE = 4  # one question in 4 has the generic option as its gold


@dataclass(frozen=True)
class Fact:
    """What a history says about one topic. `value` holds at the end of the history (None: nothing may be
    used)."""

    topic: Topic
    kind: str
    # the value revealed first: the user's; for kind "others" the relative's, for "mention" nobody's
    first: str
    value: str | None
    relative: str | None = None  # whose value `first` (kind "others") or `rival` (kind "contrast") is
    rival: str | None = None


@dataclass
class Block:
    """One conversation about one fact.

    Attributes:
        messages: messages of alternating roles, the user's first.
        fact: the fact it is about (None: filler).
        scenario: value of the column `conversation_scenario`.
        after: it refers to an earlier conversation and comes after it.
        telling: it is the one that the category of the fact's question is about (the update, the request to
            forget, the relative's value).
    """

    messages: list[dict[str, str]]
    fact: Fact | None
    scenario: str
    after: bool = False
    telling: bool = True


@dataclass(frozen=True)
class Persona:
    """One mini persona with its facts and its history."""

    id: int
    name: str
    age: int
    occupation: str
    facts: tuple[Fact, ...]
    blocks: tuple[Block, ...] = field(repr=False)

    @property
    def system(self) -> str:
        """The system message of the history."""
        about = {"name": self.name, "age": self.age, "occupation": self.occupation}
        return "You are an AI assistant helping a user with the following persona:\n\n" + json.dumps(about)

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages of the history, the system message first."""
        turns = [message for block in self.blocks for message in block.messages]
        return [{"role": "system", "content": self.system}, *turns]


def chat(user: str, *rest: str) -> list[dict[str, str]]:
    """Returns messages of alternating roles, the user's first."""
    texts = (user, *rest)
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def _own_block(rng: Random, fact: Fact, value: str, after: bool = False, telling: bool = True) -> Block:
    scenario = rng.choice(list(mini_vocabulary.OWN_FRAMES))
    frame = rng.choice(mini_vocabulary.OWN_FRAMES[scenario])
    text = frame.format(doing=fact.topic.with_value(value))
    return Block(chat(text, rng.choice(mini_vocabulary.REPLIES[scenario])), fact, scenario, after, telling)


def _other_block(rng: Random, fact: Fact, value: str) -> Block:
    scenario = rng.choice(list(mini_vocabulary.OTHER_FRAMES))
    frame = rng.choice(mini_vocabulary.OTHER_FRAMES[scenario])
    text = frame.format(who=fact.relative, doing=fact.topic.with_value(value))
    return Block(chat(text, rng.choice(mini_vocabulary.REPLIES[scenario])), fact, scenario)


def _mention_block(rng: Random, fact: Fact) -> Block:
    scenario = rng.choice(list(mini_vocabulary.MENTION_FRAMES))
    text = mini_vocabulary.MENTION_FRAMES[scenario].format(doing=fact.topic.with_value(fact.first))
    return Block(chat(text, rng.choice(mini_vocabulary.REPLIES[scenario])), fact, scenario)


def _update_block(rng: Random, fact: Fact) -> Block:
    frames = mini_vocabulary.UPDATE_FRAMES if fact.value else mini_vocabulary.END_FRAMES
    old, new = fact.topic.with_value(fact.first), fact.topic.with_value(fact.value or "")
    text = rng.choice(frames).format(old=old, new=new)
    return Block(chat(text, rng.choice(mini_vocabulary.UPDATE_REPLIES)), fact, "knowledge_query", after=True)


def _forget_block(rng: Random, fact: Fact) -> Block:
    text = rng.choice(mini_vocabulary.FORGET_FRAMES).format(doing=fact.topic.with_value(fact.first))
    return Block(chat(text), fact, "knowledge_query", after=True)  # without a reply, as in the official data


def _fact(rng: Random, topic: Topic, kind: str) -> Fact:
    first, second = rng.sample(topic.values, 2)
    relative = rng.choice(mini_vocabulary.RELATIVES)
    if kind == "own":
        return Fact(topic, kind, first, first)
    if kind == "contrast":
        return Fact(topic, kind, first, first, relative, second)
    if kind in ("update", "retold"):
        return Fact(topic, kind, first, second)
    return Fact(topic, kind, first, None, relative if kind == "others" else None)


def _blocks(rng: Random, fact: Fact) -> tuple[list[Block], list[Block]]:
    """Returns the conversations about one fact: those in any order, and those that come after them in the
    given order."""
    if fact.kind == "mention":
        return [_mention_block(rng, fact)], []
    if fact.kind == "others":
        return [_other_block(rng, fact, fact.first)], []
    own = _own_block(rng, fact, fact.first, telling=fact.kind == "own")
    if fact.rival:
        return [own, _other_block(rng, fact, fact.rival)], []
    if fact.kind in ("update", "ended"):
        return [own], [_update_block(rng, fact)]
    if fact.kind == "forget":
        return [own], [_forget_block(rng, fact)]
    if fact.kind == "retold":
        return [own], [
            _forget_block(rng, fact),
            _own_block(rng, fact, fact.value or "", after=True, telling=False),
        ]
    return [own], []


def draw_kinds(rng: Random, categories: Sequence[str]) -> tuple[str, ...]:
    """Draws a kind of fact for each category; one in `GENERIC_SHARE`, chosen at random, ends without a value
    that may be used."""
    ends = set(rng.sample(range(len(categories)), len(categories) // GENERIC_SHARE))
    return tuple(STORIES[category][i in ends] for i, category in enumerate(categories))


def make_persona(
    seed: int, persona_id: int, categories: Sequence[str] = CATEGORIES, fillers: int = 2
) -> Persona:
    """Draws one persona, with one topic per category."""
    rng = Random(f"mini-{seed}-{persona_id}")
    return draw_persona(rng, persona_id, draw_kinds(rng, categories), fillers)


def draw_persona(rng: Random, persona_id: int, kinds: Sequence[str], fillers: int = 2) -> Persona:
    """Draws one persona, with one topic per kind of fact."""
    topics = rng.sample(mini_vocabulary.TOPICS, len(kinds))
    facts = tuple(_fact(rng, topic, kind) for topic, kind in zip(topics, kinds, strict=True))
    first: list[Block] = []
    later: list[list[Block]] = []
    for fact in facts:
        now, then = _blocks(rng, fact)
        first += now
        later.append(then)
    first += [Block(chat(*rng.choice(mini_vocabulary.FILLER)), None, "filler") for _ in range(fillers)]
    rng.shuffle(first)
    blocks = list(first)
    for then in later:
        for block in then:  # anywhere after the conversation it refers to
            origin = max(i for i, b in enumerate(blocks) if b.fact is block.fact)
            blocks.insert(rng.randint(origin + 1, len(blocks)), block)
    about = (rng.choice(mini_vocabulary.NAMES), rng.randint(20, 79), rng.choice(mini_vocabulary.OCCUPATIONS))
    return Persona(persona_id, *about, facts, tuple(blocks))


def options(rng: Random, fact: Fact) -> tuple[str, list[str]]:
    """Returns gold and three distractors.

    The four options are the generic option and three values of the topic, among them every value that the
    history names.
    """
    hard = [v for v in (fact.first, fact.rival) if v and v != fact.value]
    others = [v for v in fact.topic.values if v not in (fact.first, fact.value, fact.rival)]
    wanted = 2 if fact.value else 3
    wrong = hard + rng.sample(others, wanted - len(hard))
    rng.shuffle(wrong)
    texts = [mini_vocabulary.option(fact.topic.with_value(v)) for v in wrong]
    if fact.value is None:
        return mini_vocabulary.GENERIC_OPTION, texts
    return mini_vocabulary.option(fact.topic.with_value(fact.value)), [*texts, mini_vocabulary.GENERIC_OPTION]
