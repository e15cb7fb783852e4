"""Facts of the offline writers: which topics a persona gets, and what its history says about each.

Invariant of `draw_facts`: a reader who sees no history is at chance, in every kind of question. Every
question about a topic shows three of its values and one generic option. The three values are drawn first,
independently of the persona's preferences; then one of them is chosen uniformly as the preference. In every
section exactly a quarter of the questions have the generic option as gold, drawn independently of the story:
each story has one ending in which a value holds, and one in which no value does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from rft.errors import DataError
from rft.simulate.persona_record import Persona
from rft.simulate.topics import OPPOSITE, SECTIONS, Topic, content_words

GENERIC_SHARE = 4  # one in N questions has the generic option as gold
# "untold" is rarer, because these questions have no scenario and no distance
NOTHING_TOLD = {"open": 2, "untold": 1}
STORIES = {  # story -> (kind with a value that holds, {kind without: relative frequency})
    "told": ("own", NOTHING_TOLD),
    "changed": ("update", {"ended": 1}),
    "withdrawn": ("renewed", {"forget": 1}),
    "others": ("beside", {"others": 1}),
}
# weights: of 16 questions in the general section
OFTEN = {"told": 7, "changed": 3, "withdrawn": 3, "others": 3}
OFTEN_ELSEWHERE = {"told": 8, "withdrawn": 4, "others": 4}  # therapy and health have no updates
# pairs of opposite archetypes
PAIRS = [(first, second) for first, second in OPPOSITE.items() if first < second]
# weights for choosing the value typical of nobody as the shortest, middle or longest of the three; with these
# weights each length rank is found about equally often
RANKS = (1.0, 1.4, 2.15)
DRAWS = 8  # attempts to draw three values of a topic before the topic is skipped
# share of general topics whose question shows a value typical of the persona and one typical of its opposite
MARKED = 0.75


@dataclass(frozen=True)
class Fact:
    """What a history says about one topic.

    Attributes:
        topic: the topic.
        kind: "own": revealed in passing; "open": the user says that anything will do; "untold": never
            mentioned; "update": `first` is revealed and then replaced; "ended": revealed and given up;
            "renewed": revealed, withdrawn, and another one revealed; "forget": revealed and withdrawn;
            "beside": the user's own and somebody else's `rival`; "others": only somebody else's; "mention":
            mentioned as nobody's.
        pref_type: value of the column `pref_type`.
        first: the value revealed first; for open and untold topics, the value that could have been revealed.
        current: the value that is true at the end of the history (None: nothing may be used).
        rival: somebody else's value, for kind "beside".
        shown: the three values that the question offers (empty: drawn with the question).
        relative: the somebody else, if the conversations need one word.
    """

    topic: Topic
    kind: str
    pref_type: str
    first: str
    current: str | None
    rival: str | None
    shown: Sequence[str] = ()
    relative: str | None = None


def make_fact(
    archetype: str,
    topic: Topic,
    kind: str,
    first: str,
    second: str,
    shown: Sequence[str] = (),
    relative: str | None = None,
) -> Fact:
    """Returns the fact of a kind; `second` is the value that replaces `first` or is somebody else's.

    `archetype` is that of the persona, "" if there is none.
    """
    current = {"own": first, "beside": first, "update": second, "renewed": second}.get(kind)
    rival = second if kind == "beside" else None
    pref_type = _pref_type(archetype, topic, current or first)
    return Fact(topic, kind, pref_type, first, current, rival, shown, relative)


def draw_facts(rng: Random, persona: Persona, topics: Sequence[Topic], counts: dict[str, int]) -> list[Fact]:
    """Draws `counts[section]` facts of each section; no two share a topic or a content word of their values.

    Raises:
        DataError: there are not enough topics.
    """
    facts: list[Fact] = []
    taken: set[str] = set()
    for section in SECTIONS:
        count = counts.get(section, 0)
        kinds = draw_kinds(rng, section, count)
        of_section = [topic for topic in topics if topic.section == section]
        marked_count = round(count * MARKED) if section == "general" else 0
        marked = [topic for topic in of_section if persona.archetype in _triples(topic)]
        marked_count = min(marked_count, len(marked))
        chosen = _choose(rng, persona, rng.sample(marked, len(marked)), marked_count, taken)
        used = {topic.name for topic, _ in chosen}
        rest = [topic for topic in rng.sample(of_section, len(of_section)) if topic.name not in used]
        chosen += _choose(rng, persona, rest, count - marked_count, taken)
        if len(chosen) < count:
            raise DataError(
                f"section [{section}] has {len(of_section)} topics, of which {len(chosen)} could be used"
                f" together; a persona needs {count} that share no words. Add topics or use a smaller profile"
            )
        rng.shuffle(chosen)
        for (topic, shown), kind in zip(chosen, kinds, strict=True):
            first, second, _ = rng.sample(shown, 3)
            facts.append(make_fact(persona.archetype, topic, kind, first, second, shown))
    rng.shuffle(facts)
    return facts


def draw_kinds(rng: Random, section: str, count: int) -> list[str]:
    """Draws the kinds of `count` facts of one section; in a quarter of them, independent of the story, no
    value holds."""
    often = OFTEN if section == "general" else OFTEN_ELSEWHERE
    stories = rng.choices(list(often), list(often.values()), k=count)
    generic = set(rng.sample(range(count), count // GENERIC_SHARE))
    kinds = []
    for number, (holds, none) in enumerate(STORIES[story] for story in stories):
        kinds.append(rng.choices(list(none), list(none.values()))[0] if number in generic else holds)
    return kinds


@cache
def _triples(topic: Topic) -> dict[str, tuple[str, str, str]]:
    """Returns per archetype: a value typical of it, one typical of its opposite, and one typical of nobody,
    if they exist.

    The form of an option must not reveal which kind of preference is gold. Therefore both archetypes of a
    pair share the same three values, and no value is in two triples: each is shown equally often. Values
    typical of nobody tend to be shorter, so the length rank of the third value (shortest, middle or longest)
    is drawn first.
    """
    if topic.section != "general":
        return {}
    rng, triples = Random(topic.name), dict[str, tuple[str, str, str]]()
    values = rng.sample(topic.values, len(topic.values))
    free = [value for value in values if not topic.mark(value)]
    for pair in rng.sample(PAIRS, len(PAIRS)):
        typical, opposite = (next((v for v in values if topic.mark(v) == mark), None) for mark in pair)
        (rank,) = rng.choices(range(3), RANKS)
        if typical is None or opposite is None:
            continue
        third = next(
            (value for value in free if (len(value) > len(typical)) + (len(value) > len(opposite)) == rank),
            None,
        )
        if third is not None:
            free.remove(third)
            triples |= dict.fromkeys(pair, (typical, opposite, third))
    return triples


def _choose(
    rng: Random, persona: Persona, topics: Sequence[Topic], count: int, taken: set[str]
) -> list[tuple[Topic, tuple[str, str, str]]]:
    """Chooses topics with three values each. Skips a topic whose values share a content word with values
    chosen before, so that no statement about one topic says anything about another.
    """
    chosen: list[tuple[Topic, tuple[str, str, str]]] = []
    for topic in topics:
        if len(chosen) == count:
            break
        values = next(
            (drawn for drawn in _draws(rng, topic, persona.archetype) if not _content(drawn) & taken), None
        )
        if values is None:
            continue
        taken |= _content(values)
        rng.shuffle(values)
        chosen.append((topic, (values[0], values[1], values[2])))
    return chosen


def _draws(rng: Random, topic: Topic, archetype: str) -> Iterator[list[str]]:
    """Triples of a topic's values that a question could show: the one of `_triples`, otherwise any three
    values typical neither of the archetype nor of its opposite, which make a question about a neutral
    preference."""
    if archetype in _triples(topic):
        yield list(_triples(topic)[archetype])
        return
    pair = {archetype, OPPOSITE.get(archetype)} - {""}
    neither = [value for value in topic.values if topic.mark(value) not in pair]
    if len(neither) >= 3:
        yield from (rng.sample(neither, 3) for _ in range(DRAWS))


def _content(values: Sequence[str]) -> set[str]:
    return set().union(*(content_words(value) for value in values))


def _pref_type(archetype: str, topic: Topic, value: str) -> str:
    if topic.section != "general":
        return {"therapy": "therapy_background", "health": "health_and_medical_conditions"}[topic.section]
    mark = topic.mark(value)
    if mark and mark == archetype:
        return "stereotypical_pref"
    return "anti_stereotypical_pref" if mark and mark == OPPOSITE.get(archetype) else "neutral_preferences"
