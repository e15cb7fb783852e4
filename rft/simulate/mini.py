"""One mini persona: what it prefers, how its history reveals that, and the questions about it.

A blind reader is at chance by construction: three options of every question name values of the topic and one is generic; the
generic one is gold for exactly a quarter of a persona's questions (a request to forget, somebody else's preference), and among
the three values the gold is drawn like the others. Everything follows from (seed, persona id) alone.
"""

import json
from dataclasses import dataclass, field
from random import Random

from rft.simulate import world
from rft.simulate.world import Topic

KINDS = ("own", "own", "own", "own", "update", "update", "forget", "others")  # one question each; 2 of 8 are generic


@dataclass(frozen=True)
class Fact:
    """What a history says about one topic. `value` is what holds at its end (None: nothing may be used)."""

    topic: Topic
    kind: str
    first: str  # the value first revealed: the user's, or the other person's for kind "others"
    value: str | None
    relative: str | None = None  # whose value it is ("others"), or who has `rival` (a contrast to an own preference)
    rival: str | None = None


@dataclass
class Block:
    """One conversation about one topic (None: filler); `after` orders updates and forget requests behind their original."""

    messages: list[dict[str, str]]
    fact: Fact | None
    scenario: str
    after: bool = False


@dataclass(frozen=True)
class Persona:
    id: int
    name: str
    age: int
    occupation: str
    facts: tuple[Fact, ...]
    blocks: tuple[Block, ...] = field(repr=False)

    @property
    def system(self) -> str:
        about = {"name": self.name, "age": self.age, "occupation": self.occupation}
        return "You are an AI assistant helping a user with the following persona:\n\n" + json.dumps(about)

    @property
    def messages(self) -> list[dict[str, str]]:
        turns = [message for block in self.blocks for message in block.messages]
        return [{"role": "system", "content": self.system}, *turns]


def chat(user: str, *rest: str) -> list[dict[str, str]]:
    """Messages of alternating roles, the user's first."""
    texts = (user, *rest)
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def _own_block(rng: Random, fact: Fact, value: str) -> Block:
    scenario = rng.choice(list(world.OWN_FRAMES))
    frame = rng.choice(world.OWN_FRAMES[scenario])
    text = frame.format(doing=fact.topic.with_value(value))
    return Block(chat(text, rng.choice(world.REPLIES[scenario])), fact, scenario)


def _other_block(rng: Random, fact: Fact, value: str) -> Block:
    scenario = rng.choice(list(world.OTHER_FRAMES))
    frame = rng.choice(world.OTHER_FRAMES[scenario])
    text = frame.format(who=fact.relative, doing=fact.topic.with_value(value))
    return Block(chat(text, rng.choice(world.REPLIES[scenario])), fact, scenario)


def _update_block(rng: Random, fact: Fact) -> Block:
    old, new = fact.topic.with_value(fact.first), fact.topic.with_value(fact.value or fact.first)
    text = rng.choice(world.UPDATE_FRAMES).format(old=old, new=new)
    return Block(chat(text, rng.choice(world.UPDATE_REPLIES)), fact, "knowledge_query", after=True)


def _forget_block(rng: Random, fact: Fact) -> Block:
    text = rng.choice(world.FORGET_FRAMES).format(doing=fact.topic.with_value(fact.first))
    return Block(chat(text), fact, "knowledge_query", after=True)  # never answered, as in the official data


def _fact(rng: Random, topic: Topic, kind: str, contrast: bool) -> Fact:
    first, second = rng.sample(topic.values, 2)
    relative = rng.choice(world.RELATIVES)
    if kind == "own":
        return Fact(topic, kind, first, first, *((relative, second) if contrast else (None, None)))
    if kind == "update":
        return Fact(topic, kind, first, second)
    if kind == "forget":
        return Fact(topic, kind, first, None)
    return Fact(topic, kind, first, None, relative)


def make_persona(seed: int, persona_id: int, kinds: tuple[str, ...] = KINDS, fillers: int = 2) -> Persona:
    """Draw one persona: a topic per entry of `kinds`, one own preference contrasted with a relative's other value."""
    rng = Random(f"mini-{seed}-{persona_id}")
    topics = rng.sample(world.TOPICS, len(kinds))
    contrasted = rng.choice([i for i, kind in enumerate(kinds) if kind == "own"] or [-1])
    facts = tuple(_fact(rng, t, k, i == contrasted) for i, (t, k) in enumerate(zip(topics, kinds, strict=True)))
    first, later = [], []
    for fact in facts:
        first.append(_other_block(rng, fact, fact.first) if fact.kind == "others" else _own_block(rng, fact, fact.first))
        if fact.rival:
            first.append(_other_block(rng, fact, fact.rival))
        if fact.kind == "update":
            later.append(_update_block(rng, fact))
        if fact.kind == "forget":
            later.append(_forget_block(rng, fact))
    first += [Block(chat(*rng.choice(world.FILLER)), None, "filler") for _ in range(fillers)]
    rng.shuffle(first)
    blocks = list(first)
    for block in later:  # anywhere behind the conversation it refers to
        origin = next(i for i, b in enumerate(blocks) if b.fact is block.fact)
        blocks.insert(rng.randint(origin + 1, len(blocks)), block)
    about = (rng.choice(world.NAMES), rng.randint(20, 79), rng.choice(world.OCCUPATIONS))
    return Persona(persona_id, *about, facts, tuple(blocks))


def options(rng: Random, fact: Fact) -> tuple[str, list[str]]:
    """Gold and three distractors: two or three values of the topic beside the generic option; the hard rival is always there."""
    hard = [v for v in (fact.first, fact.rival) if v and v != fact.value]
    others = [v for v in fact.topic.values if v not in (fact.first, fact.value, fact.rival)]
    wanted = 2 if fact.value else 3
    wrong = hard + rng.sample(others, wanted - len(hard))
    rng.shuffle(wrong)
    texts = [world.option(fact.topic.with_value(v)) for v in wrong]
    if fact.value is None:
        return world.GENERIC_OPTION, texts
    return world.option(fact.topic.with_value(fact.value)), [*texts, world.GENERIC_OPTION]
