"""LLM writer: an LLM generates person, preferences, conversations and questions; rules and votes filter them.

The structure of a persona (kinds, scenarios, gold lengths) is drawn from (seed, persona id) as in the offline
writer; the LLM writes only the texts. A question is kept if it passes the rules of `checks`, if its gold has
the drawn length rank, if most judges without the history choose another option, and if most judges find that
exactly the required options use the preference. Personal items and their questions are generated without the
LLM, since no model should be asked for them.
"""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

from rft.data.faults import mentions
from rft.llm.chat import Chat
from rft.llm.client import Llm
from rft.llm.drafts import Options, check_length, draw_words
from rft.llm.forms import Answer, Form, Unusable
from rft.llm.journal import Journal
from rft.llm.votes import vote_blind, vote_uses
from rft.simulate.checks import conflict, conversation_faults, item_faults
from rft.simulate.facts import GENERIC_SHARE
from rft.simulate.grammar import load
from rft.simulate.persona import make_persona, read_personas
from rft.simulate.persona_record import (
    SCENARIOS,
    Conversation,
    Persona,
    PersonaRecord,
    Preference,
    QuestionItem,
    chat,
)
from rft.simulate.profile import Settings
from rft.simulate.question import sensitive
from rft.simulate.topics import SECTIONS

UPDATES = 4  # one in N general questions with a non-generic gold is about an update
FORGET_OF_GENERIC = 2 / 3
SPARE = 1.5  # ratio of preferences requested to preferences needed
# section -> {kind that the LLM is asked for: value of the column `pref_type`}
PREF_TYPES = {
    "general": {
        "neutral": "neutral_preferences",
        "stereotypical": "stereotypical_pref",
        "anti_stereotypical": "anti_stereotypical_pref",
    },
    "therapy": {"therapy": "therapy_background"},
    "health": {"health": "health_and_medical_conditions"},
}

# Response forms.


class Sheet(Answer):
    short_persona: str
    occupation: str
    education: str
    household: str
    traits: list[str]
    values: list[str]
    speaking_style: str


class Stated(Answer):
    topic: str
    statement: str
    keyword: str


class Preferences(Answer):
    preferences: list[Stated]


class Conflicts(Answer):
    remove: list[int]


class Said(Answer):
    role: Literal["user", "assistant"]
    content: str


class Talk(Answer):
    messages: list[Said]


class Forget(Answer):
    query: str
    answer: str
    request: str


class LlmWriter:
    """Generates persona records with an LLM; thread-safe.

    Args:
        settings: settings of the dataset.
        folder: folder of what was paid for: the journals of responses, and the ledger of the budget.
        workers: threads that write personas.

    Raises:
        EndpointError: the LLM cannot be used.
    """

    def __init__(self, settings: Settings, folder: Path, workers: int):
        assert settings.llm is not None
        self.settings, self.folder = settings, folder
        self.people = read_personas(settings.personas_file) if settings.personas_file else None
        self.llm = Llm(settings.llm, folder, workers)

    def write(self, persona_id: int) -> PersonaRecord:
        """Generates one persona record; without usable responses it has no questions, and `rejected` contains
        the reasons."""
        chat_ = Chat(self.llm, Journal(self.folder / f"persona{persona_id}.jsonl"))
        described = self.people[persona_id] if self.people else None
        persona = make_persona(self.settings.seed, persona_id, described)
        return _Session(self.settings, chat_, persona).dossier()


class _Session:
    """Generation of one persona record."""

    def __init__(self, settings: Settings, chat_: Chat, persona: Persona):
        self.settings, self.chat, self.persona = settings, chat_, persona
        self.rng = Random(f"llm-{settings.seed}-{persona.id}")
        self.preferences: list[Preference] = []
        self.conversations: list[Conversation] = []
        self.items: list[QuestionItem] = []

    def dossier(self) -> PersonaRecord:
        sheet = self.ask_retried("persona", Sheet, "persona", {"demographics": self.persona.about})
        if sheet is not None:
            described = sheet.model_dump()
            personality = {"traits": described.pop("traits"), "values": described.pop("values")}
            self.persona = Persona(
                self.persona.id, {**self.persona.about, **described, "personality": personality}
            )
            for preference in self.kept_preferences():
                self.add(preference)
            self.add_sensitive()
        return PersonaRecord(
            self.persona,
            self.preferences,
            self.conversations,
            self.items,
            dict(self.chat.rejected),
            dict(self.chat.paid),
        )

    def ask(self, form: type[Form], task: str, given: dict[str, Any], attempt: int) -> Form:
        return self.chat.ask(form, load("prompts")[task], given, attempt)

    def ask_retried(self, what: str, form: type[Form], task: str, given: dict[str, Any]) -> Form | None:
        return self.chat.retried(what, lambda attempt: self.ask(form, task, given, attempt))

    def kept_preferences(self) -> list[Preference]:
        """Preferences of all sections that do not conflict with an earlier one, according to the rules and
        the LLM."""
        accepted: list[Preference] = []
        for section in SECTIONS:
            kinds = _draw_kinds(self.rng, section, self.settings.facts().get(section, 0))
            if not kinds:
                continue
            candidates: list[Preference] = []
            for name, pref_type in PREF_TYPES[section].items():
                count = round(len(kinds) / len(PREF_TYPES[section]) * SPARE + 0.5)
                given = {
                    "person": self.persona.about,
                    "kind": name,
                    "count": count,
                    "not": [p.text for p in accepted + candidates],
                }
                stated = self.chat.retried("preferences", partial(self.usable_list, given))
                candidates += [
                    Preference(s.topic, s.statement, pref_type, "own", s.keyword) for s in stated or []
                ]
            kept: list[Preference] = []
            for candidate in candidates:
                if why := conflict(candidate, accepted + kept):
                    self.chat.rejected[f"preference: {why.split(' as ')[0]} as one before"] += 1
                else:
                    kept.append(candidate)
            kept = self.without_conflicts(accepted, kept)
            chosen = self.rng.sample(kept, min(len(kinds), len(kept)))
            accepted += [_of_kind(preference, kind) for preference, kind in zip(chosen, kinds, strict=False)]
        return accepted

    def usable_list(self, given: dict[str, Any], attempt: int) -> list[Stated]:
        stated = self.ask(Preferences, "preferences", given, attempt).preferences
        usable = [
            s for s in stated if s.topic.strip() and s.keyword.strip() and mentions(s.keyword, s.statement)
        ]
        if len(usable) < given["count"] / 2:
            raise Unusable(f"fewer than half of the {given['count']} asked for can be used")
        return usable

    def without_conflicts(self, accepted: list[Preference], kept: list[Preference]) -> list[Preference]:
        if not kept:
            return kept
        statements = [p.text for p in accepted + kept]
        given = {"statements": {str(number): text for number, text in enumerate(statements)}}
        answer = self.ask_retried("conflicts", Conflicts, "conflicts", given)
        remove = set(answer.remove if answer else [])
        self.chat.rejected["preference: in conflict, says the LLM"] += len(
            [n for n in remove if len(accepted) <= n < len(statements)]
        )
        self.chat.rejected += Counter()  # removes zero counts
        return [p for number, p in enumerate(kept, len(accepted)) if number not in remove]

    def add(self, preference: Preference) -> None:
        """Adds the conversations about a preference and its question; adds nothing if a conversation
        fails."""
        index = len(self.preferences)
        if preference.kind == "forget":
            blocks = [self.chat.retried("forget request", partial(self.forget, index, preference))]
        elif preference.kind == "update":
            old, given = preference, {"person": self.persona.about, "preference": preference.text}
            new = self.ask_retried("update", Stated, "opposite", given)
            if new is None:
                return
            preference = replace(old, text=new.statement, keyword=new.keyword, previous=old.text)
            blocks = [self.talk(index, old, evidence=False), self.talk(index, preference, place="later")]
        else:
            blocks = [self.talk(index, preference)]
        written = [block for block in blocks if block is not None]
        if len(written) < len(blocks):
            return
        self.preferences.append(preference)
        self.conversations += written
        item = self.chat.retried("question", partial(self.question, index, preference))
        if item is not None:
            self.items.append(item)

    def talk(
        self, index: int, preference: Preference, place: str = "first", evidence: bool = True
    ) -> Conversation | None:
        scenario = self.rng.choice(SCENARIOS)
        given = {
            "person": self.persona.about,
            "scenario": scenario,
            "preference": preference.text,
            "whose": "other" if preference.kind == "others" else "self",
        }
        if place == "later":
            given["replaces"] = preference.previous
        block = Conversation([], scenario, index, evidence, place)
        written = partial(self.usable_talk, "conversation", given, block, never=preference.text)
        return self.chat.retried("conversation", written)

    def usable_talk(
        self,
        task: str,
        given: dict[str, Any],
        block: Conversation,
        attempt: int,
        never: str = "",
        must: str = "",
    ) -> Conversation:
        messages = [turn.model_dump() for turn in self.ask(Talk, task, given, attempt).messages]
        talk = replace(block, messages=messages)
        text = "\n".join(message["content"] for message in messages)
        if faults := conversation_faults(talk):
            raise Unusable(faults[0])
        if never and mentions(never, text):
            raise Unusable("it states the preference instead of showing it")
        if must and must not in text:
            raise Unusable("the personal item is not in it")
        return talk

    def forget(self, index: int, preference: Preference, attempt: int) -> Conversation:
        reply = self.ask(
            Forget, "forget", {"person": self.persona.about, "preference": preference.previous}, attempt
        )
        block = Conversation(chat(reply.query, reply.answer, reply.request), "knowledge_query", index)
        if faults := conversation_faults(block):
            raise Unusable(faults[0])
        return block

    def question(self, index: int, preference: Preference, attempt: int) -> QuestionItem:
        """Returns one question that passes every check; raises Unusable with the first reason against it."""
        rng = Random(f"{self.settings.seed}-{self.persona.id}-{index}-{attempt}")
        generic = preference.kind in ("forget", "others")
        words = draw_words(rng)
        others = [p.text for i, p in enumerate(self.preferences) if i != index and p.kind == "own"]
        given: dict[str, Any] = {
            "person": self.persona.about,
            "kind": "generic" if generic else "own",
            "preference": preference.previous if preference.kind == "forget" else preference.text,
            "other_preference": rng.choice(others) if others else "none known",
            "words": {"gold": words[0], "distractors": words[1:]},
        }
        answer = self.ask(Options, "question", given, attempt)
        item = QuestionItem(
            index, answer.query.strip(), answer.gold.strip(), [d.strip() for d in answer.distractors]
        )
        if faults := item_faults(item, preference):
            raise Unusable(faults[0])
        check_length(item, words[0])
        vote_blind(self.chat, item, attempt)
        vote_uses(self.chat, item, given["preference"], not generic, attempt)
        return item

    def add_sensitive(self) -> None:
        def talk(index: int, rule: str, item: str, value: str) -> Conversation | None:
            scenario = self.rng.choice([s for s in SCENARIOS if s != "knowledge_query"])
            given = {
                "person": self.persona.about,
                "scenario": scenario,
                "how": "leaked" if rule == "leak" else rule,
                "item": f"{item} {value}",
            }
            written = partial(self.usable_talk, "leak", given, Conversation([], scenario, index), must=value)
            return self.chat.retried("personal item", written)

        preferences, conversations, items = sensitive(
            self.rng, self.persona.id, len(self.preferences), self.settings.facts().get("sensitive", 0), talk
        )
        self.preferences += preferences
        self.conversations += conversations
        self.items += items


def _draw_kinds(rng: Random, section: str, count: int) -> list[str]:
    """Draws the kinds of `count` preferences of one section, in random order: a quarter generic, some of the
    rest updates."""
    generic = count // GENERIC_SHARE
    kinds = ["forget" if rng.random() < FORGET_OF_GENERIC else "others" for _ in range(generic)]
    # therapy and health have no updates
    updates = (count - generic) // UPDATES if section == "general" else 0
    return rng.sample([*kinds, *["update"] * updates, *["own"] * (count - generic - updates)], count)


def _of_kind(preference: Preference, kind: str) -> Preference:
    if kind != "forget":
        return replace(preference, kind=kind)
    return replace(
        preference,
        text=f"Do not remember '{preference.text}' in memory",
        pref_type="ask_to_forget",
        kind=kind,
        previous=preference.text,
    )
