"""Offline writer: generates persona records from word lists, free of charge and deterministic per (seed,
persona id)."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from rft.simulate.conversation import Style, Talk
from rft.simulate.facts import draw_facts
from rft.simulate.persona import make_persona
from rft.simulate.persona_record import PersonaRecord
from rft.simulate.question import ENJOYS, item_of, preference_of, sensitive
from rft.simulate.topics import Topic


@dataclass(frozen=True)
class GrammarWriter:
    """Generates persona records from word lists.

    Attributes:
        seed: seed of the dataset.
        topics: topics to draw from.
        counts: facts per persona, by section and for "sensitive" items.
        style: length of the conversations.
        people: custom descriptions by persona id, or None.
    """

    seed: int
    topics: Sequence[Topic]
    counts: dict[str, int]
    style: Style
    people: Sequence[dict[str, Any]] | None = None

    def write(self, persona_id: int) -> PersonaRecord:
        """Generates the record of one persona."""
        rng = Random(f"grammar-{self.seed}-{persona_id}")
        persona = make_persona(self.seed, persona_id, self.people[persona_id] if self.people else None)
        facts = draw_facts(rng, persona, self.topics, self.counts)
        talk = Talk(rng, persona, self.style)
        verbs = (rng.choice(ENJOYS) if fact.topic.section == "general" else "Is" for fact in facts)
        preferences = [preference_of(fact, verb) for fact, verb in zip(facts, verbs, strict=True)]
        conversations = [c for index, fact in enumerate(facts) for c in talk.about(index, fact)]
        items = [item_of(rng, index, fact, self.style.extras) for index, fact in enumerate(facts)]
        more = sensitive(rng, persona_id, len(facts), self.counts.get("sensitive", 0), talk.task)
        return PersonaRecord(
            persona, preferences + more[0], conversations + more[1], items + more[2], rejected={}, usage={}
        )
