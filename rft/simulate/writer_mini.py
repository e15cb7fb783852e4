"""Mini writer: personas with a handful of one-sentence conversations, from a small list of words.

Invariant: a reader without the history is at chance, in every category of questions. Three options of a
question name values of its topic and one is generic. The generic option is gold for a quarter of each
category, since each category has stories with both endings (`ENDINGS`). Among the three values the gold is
drawn like the others. Everything depends only on (seed, persona id).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from rft.simulate.facts import GENERIC_SHARE, Fact, make_fact
from rft.simulate.grammar import load
from rft.simulate.persona_record import Conversation, Persona, PersonaRecord, Preference, QuestionItem, chat
from rft.simulate.question import preference_of
from rft.simulate.topics import shipped

# category -> (kind of fact with a value that holds at the end, kind without)
ENDINGS = {
    "plain": ("own", "mention"),
    "changed": ("update", "ended"),
    "withdrawn": ("renewed", "forget"),
    "others": ("beside", "others"),
}
TOPICS = shipped("mini_topics")
VOCABULARY: dict[str, Any] = load("mini")
GENERIC_OPTION: str = VOCABULARY["generic_option"]
# additional filler conversations in the long history; they make it more than three times as long
LONG_FILLERS = 42


class MiniWriter:
    """Generates mini persona records.

    Args:
        seed: seed of the dataset.
        counts: questions per persona, by category.
        personas: personas with an id from this number on have the questions of `forget` instead.
        forget: like `counts`.
    """

    def __init__(self, seed: int, counts: Mapping[str, int], personas: int, forget: Mapping[str, int]):
        self.seed, self.counts, self.personas, self.forget = seed, counts, personas, forget

    def write(self, persona_id: int) -> PersonaRecord:
        """Generates the record of one persona; conversations and questions are in their final order."""
        rng = Random(f"mini-{self.seed}-{persona_id}")
        counts = self.counts if persona_id < self.personas else self.forget
        categories = [category for category, count in counts.items() for _ in range(count)]
        generic = set(rng.sample(range(len(categories)), len(categories) // GENERIC_SHARE))
        kinds = [ENDINGS[category][number in generic] for number, category in enumerate(categories)]
        persona, facts, conversations = draw(rng, persona_id, kinds)
        asked = Random(f"questions-{self.seed}-{persona_id}")
        items = [QuestionItem(i, fact.topic.ask, *draw_options(asked, fact)) for i, fact in enumerate(facts)]
        asked.shuffle(items)
        _lengthen(Random(f"long-{self.seed}-{persona_id}"), conversations)
        return PersonaRecord(
            persona, [mini_preference(fact) for fact in facts], conversations, items, rejected={}, usage={}
        )


def draw(
    rng: Random, persona_id: int, kinds: Sequence[str], fillers: int = 2
) -> tuple[Persona, list[Fact], list[Conversation]]:
    """Draws a persona, one fact of each kind, and the conversations about them in their final order."""
    facts = []
    for topic, kind in zip(rng.sample(TOPICS, len(kinds)), kinds, strict=True):
        first, second = rng.sample(topic.values, 2)
        relative = rng.choice(VOCABULARY["relatives"].split())
        facts.append(make_fact("", topic, kind, first, second, relative=relative))
    stories = [_conversations(rng, index, fact) for index, fact in enumerate(facts)]
    ordered = [c for story in stories for c in story if c.place == "first"]
    ordered += [_filler(rng) for _ in range(fillers)]
    rng.shuffle(ordered)
    for conversation in (c for story in stories for c in story if c.place == "later"):
        # anywhere after the conversation that it refers to
        origin = max(i for i, other in enumerate(ordered) if other.about == conversation.about)
        ordered.insert(rng.randint(origin + 1, len(ordered)), conversation)
    about = {
        "name": rng.choice(VOCABULARY["names"].split()),
        "age": rng.randint(20, 79),
        "occupation": rng.choice(VOCABULARY["occupations"].split()),
    }
    return Persona(persona_id, about), facts, ordered


def mini_preference(fact: Fact) -> Preference:
    """Returns the labels of a fact's question."""
    preference = preference_of(fact, "Enjoys")
    wish = f"Do not remember '{fact.topic.with_value(fact.first)}' in memory"
    return replace(
        preference,
        topic=fact.topic.name.capitalize(),
        text=wish if fact.kind == "forget" else preference.text,
    )


def draw_options(rng: Random, fact: Fact) -> tuple[str, list[str]]:
    """Returns gold and three distractors.

    The four options are the generic option and three values of the topic, among them every value that the
    history names.
    """
    hard = [v for v in (fact.first, fact.rival) if v and v != fact.current]
    others = [v for v in fact.topic.values if v not in (fact.first, fact.current, fact.rival)]
    wrong = hard + rng.sample(others, (2 if fact.current else 3) - len(hard))
    rng.shuffle(wrong)
    texts = [option(fact.topic.with_value(v)) for v in wrong]
    if fact.current is None:
        return GENERIC_OPTION, texts
    return option(fact.topic.with_value(fact.current)), [*texts, GENERIC_OPTION]


def option(doing: str) -> str:
    """The text of an option that suggests a value, such as "Going by train."."""
    return doing[0].upper() + doing[1:] + "."


def _conversations(rng: Random, index: int, fact: Fact) -> list[Conversation]:
    """Returns the conversations about one fact, the ones that may be anywhere first.

    The evidence is the conversation that the category of the question is about: the update, the request to
    forget, the relative's value.
    """
    if fact.kind in ("mention", "others"):
        return [_task(rng, index, fact.kind, fact, fact.first)]
    own = _task(rng, index, "own", fact, fact.first)
    if fact.kind == "own":
        return [own]
    own = replace(own, evidence=False)
    if fact.rival:
        return [own, _task(rng, index, "others", fact, fact.rival)]
    old, new = fact.topic.with_value(fact.first), fact.topic.with_value(fact.current or "")
    if fact.kind in ("update", "ended"):
        text = rng.choice(VOCABULARY[fact.kind]).format(old=old, new=new)
        exchange = chat(text, rng.choice(VOCABULARY["update_replies"]))
        return [own, Conversation(exchange, "knowledge_query", index, place="later")]
    # without a reply, as in the official data
    wish = chat(rng.choice(VOCABULARY["forget"]).format(doing=old))
    story = [own, Conversation(wish, "knowledge_query", index, place="later")]
    if fact.current:
        again = _task(rng, index, "own", fact, fact.current)
        story.append(replace(again, evidence=False, place="later"))
    return story


def _task(rng: Random, index: int, rule: str, fact: Fact, value: str) -> Conversation:
    scenario = rng.choice(list(VOCABULARY[rule]))
    frames = VOCABULARY[rule][scenario]
    frame = frames if isinstance(frames, str) else rng.choice(frames)
    text = frame.format(who=fact.relative, doing=fact.topic.with_value(value))
    return Conversation(chat(text, rng.choice(VOCABULARY["replies"][scenario])), scenario, index)


def _filler(rng: Random, place: str = "first") -> Conversation:
    return Conversation(chat(*rng.choice(VOCABULARY["filler"])), "filler", None, evidence=False, place=place)


def _lengthen(rng: Random, conversations: list[Conversation]) -> None:
    """Inserts the filler of the long history, spread evenly between the conversations."""
    places = [round(i * len(conversations) / LONG_FILLERS) for i in range(LONG_FILLERS)]
    for place in reversed(places):
        conversations.insert(place, _filler(rng, "128k"))
