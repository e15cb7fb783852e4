"""Which topics the offline writer takes for a persona, and what its history will say about each.

A reader who sees no history is at chance by construction. Every question about a topic shows three of its values and one generic
option. The three are drawn first, by a rule that does not look at who holds what; then one is chosen evenly to be held, so given
what a question shows each of the three is equally often right; and in every section exactly a quarter of the questions
(somebody else's preference, or a request to forget) have the generic option as their gold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from rft.errors import DataError
from rft.simulate.dossier import Persona
from rft.simulate.topics import OPPOSITE, SECTIONS, Topic, content_words

GENERIC_SHARE = 4  # one in so many questions
UPDATES = 4  # one in so many of the other general questions
FORGET_OF_GENERIC = 2 / 3
RIVALS = 0.3  # share of own preferences beside which somebody else's value for the same topic is told
MARKED = 0.75  # share of general topics with a value typical of the persona and one typical of its opposite


@dataclass(frozen=True)
class Fact:
    """What a history says about one topic. `held` holds at its end (None: nothing may be used), `first` is revealed first,
    `rival` is what somebody else holds beside an own preference; `shown` are the three values that the question offers.
    """

    topic: Topic
    kind: str
    pref_type: str
    shown: tuple[str, str, str]
    first: str
    held: str | None
    rival: str | None = None


def draw_facts(rng: Random, persona: Persona, topics: Sequence[Topic], counts: dict[str, int]) -> list[Fact]:
    """`counts[section]` facts of each section, no two of which share a topic or a content word of their values.

    Raises DataError where the topics do not suffice.
    """
    facts: list[Fact] = []
    taken: set[str] = set()
    for section in SECTIONS:
        count = counts.get(section, 0)
        kinds = draw_kinds(rng, section, count)
        of_section = [topic for topic in topics if topic.section == section]
        wanted = round(count * MARKED) if section == "general" else 0
        marked = [topic for topic in of_section if _triples(topic, persona.archetype)]
        wanted = min(wanted, len(marked))
        chosen = _choose(rng, persona, rng.sample(marked, len(marked)), wanted, taken)
        used = {topic.name for topic, _ in chosen}
        rest = [topic for topic in rng.sample(of_section, len(of_section)) if topic.name not in used]
        chosen += _choose(rng, persona, rest, count - wanted, taken)
        if len(chosen) < count:
            raise DataError(f"section [{section}] has {len(of_section)} topics, of which {len(chosen)} could be used together; "
                            f"a persona needs {count} that share no words: add topics or use a smaller profile")
        rng.shuffle(chosen)
        facts += [_fact(rng, persona, topic, shown, kind) for (topic, shown), kind in zip(chosen, kinds, strict=True)]
    rng.shuffle(facts)
    return facts


def draw_kinds(rng: Random, section: str, count: int) -> list[str]:
    """The kinds of `count` facts of one section, in random order: a quarter generic, and some of the others updated."""
    generic = count // GENERIC_SHARE
    kinds = ["forget" if rng.random() < FORGET_OF_GENERIC else "others" for _ in range(generic)]
    updates = (count - generic) // UPDATES if section == "general" else 0  # therapy and health are not updated
    return rng.sample([*kinds, *["update"] * updates, *["own"] * (count - generic - updates)], count)


def _triples(topic: Topic, archetype: str) -> tuple[list[str], list[str], list[str]] | None:
    """Values typical of the persona, of its opposite, and of neither; None where one of these is empty."""
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for value in topic.values:
        mark = topic.mark(value)
        groups[0 if mark == archetype else 1 if mark == OPPOSITE.get(archetype) else 2].append(value)
    return groups if all(groups) and archetype else None


def _choose(rng: Random, persona: Persona, topics: Sequence[Topic], count: int, taken: set[str]
            ) -> list[tuple[Topic, tuple[str, str, str]]]:
    """The conflict and duplicate check: a topic whose values share a content word with values chosen before is passed over, so
    nothing that is said about one topic bears on another.
    """
    chosen: list[tuple[Topic, tuple[str, str, str]]] = []
    for topic in topics:
        if len(chosen) == count:
            break
        groups = _triples(topic, persona.archetype) if topic.section == "general" else None
        values = [rng.choice(group) for group in groups] if groups else rng.sample(topic.values, 3)
        words = set().union(*(content_words(value) for value in values))
        if words & taken:
            continue
        taken |= words
        rng.shuffle(values)
        chosen.append((topic, (values[0], values[1], values[2])))
    return chosen


def _fact(rng: Random, persona: Persona, topic: Topic, shown: tuple[str, str, str], kind: str) -> Fact:
    first, second, _ = rng.sample(shown, 3)
    held = {"own": first, "update": second}.get(kind)
    rival = second if kind == "own" and rng.random() < RIVALS else None
    return Fact(topic, kind, _pref_type(persona, topic, held or first), shown, first, held, rival)


def _pref_type(persona: Persona, topic: Topic, value: str) -> str:
    if topic.section != "general":
        return {"therapy": "therapy_background", "health": "health_and_medical_conditions"}[topic.section]
    mark = topic.mark(value)
    if mark and mark == persona.archetype:
        return "stereotypical_pref"
    return "anti_stereotypical_pref" if mark and mark == OPPOSITE.get(persona.archetype) else "neutral_preferences"
