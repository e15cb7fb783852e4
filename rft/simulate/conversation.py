"""Conversations of the offline writer: everyday tasks in nine scenarios that reveal a preference only in
passing.

A user text consists of sentences about something else, plus one that reveals the preference; the assistant
rewrites every sentence in better words. Users never describe themselves. The tasks are never about the
preference, except in knowledge queries, where repeated questions reveal it.
"""

from dataclasses import dataclass, replace
from random import Random

from rft.simulate.facts import NOTHING_TOLD, Fact
from rft.simulate.grammar import draw_slot, load, pair, say, say_pair, several, shuffled
from rft.simulate.persona_record import SCENARIOS, Conversation, Message, Persona, chat

KNOWLEDGE_SHARE = 0.15  # share of "own" general preferences that are revealed by repeated questions
# share of open ones; also makes up for the untold ones, so a quarter of the questions about preferences
# revealed in a query have the generic option as gold
OPEN_ASKED = KNOWLEDGE_SHARE * sum(NOTHING_TOLD.values()) / NOTHING_TOLD["open"]
FOLLOW_UP = 0.33
LINKS = 0.25
LOWERED = set("The My Can Did There It We Is A Our Please Somebody They If Your In On".split())
# slots that keep their value throughout one conversation
FIXED = ("friend", "client", "who", "relname", "language")
HABITS = set(
    "wearing carrying dressing sleeping sitting walking living paying travelling flying starting ending"
    " spending passing keeping going looking drying storing lighting heating covering decorating hanging"
    " setting greeting waking cooling warming tidying planning working learning commuting measuring finding"
    " meeting beginning falling listening taking drinking having eating seasoning spreading buying saving"
    " writing personalising showing logging napping recovering bathing furnishing cleaning welcoming opening"
    " holding illustrating using posting calling charting staying".split()
)
SUBJECTS = {
    "personal_email": "personal",
    "chat_message": "personal",
    "social_media_post": "post",
    "translation": "personal",
    "professional_email": "work",
    "professional_writing": "bio",
    "creative_writing": "story",
}


@dataclass(frozen=True)
class Style:
    """How much text surrounds a preference."""

    sentences: tuple[int, int]  # minimum and maximum of sentences about something else per text
    extras: bool  # greetings, closings, remarks, follow-up turns


FULL = Style(sentences=(4, 7), extras=True)
SHORT = Style(sentences=(1, 1), extras=False)


class Talk:
    """Writes the conversations of one persona from word lists."""

    def __init__(self, rng: Random, persona: Persona, style: Style):
        self.rng, self.style = rng, style
        self.decks: dict[str, list[int]] = {}
        self.name = str(persona.about.get("name") or "me").split()[0]

    def about(self, index: int, fact: Fact) -> list[Conversation]:
        """Returns all conversations about preference number `index`, in the order in which they reveal it."""
        section, doing = fact.topic.section, fact.topic.with_value(fact.first)
        habit = "_habit" if doing.split()[0] in HABITS else ""
        others = f"other{habit}" if section == "general" else f"{section}_other"
        own = f"own{habit}" if section == "general" else f"{section}_own"
        if fact.kind == "untold":
            return []
        if fact.kind == "open":
            return [self.open(index, fact)]
        if fact.kind == "others":
            return [self.task(index, others, doing=doing)]
        if fact.kind == "renewed":
            withdrawn = self.forget(index, fact)
            new = self.task(index, own, doing=fact.topic.with_value(fact.current or ""))
            return [replace(withdrawn, evidence=False), replace(new, place="later")]
        if fact.kind == "own" and section == "general" and self.rng.random() < KNOWLEDGE_SHARE:
            return self.questions(index, doing)
        reveal = self.task(index, own, doing=doing)
        if fact.kind == "forget":
            return [reveal, replace(self.forget(index, fact), scenario=reveal.scenario, place="later")]
        if fact.kind in ("update", "ended"):
            current = {"new": fact.topic.with_value(fact.current)} if fact.current else {}
            change = self.task(index, fact.kind, old=doing, **current)
            return [replace(reveal, evidence=False), replace(change, place="later")]
        if fact.rival:
            rival = self.task(index, others, doing=fact.topic.with_value(fact.rival))
            return [reveal, replace(rival, evidence=False)]
        return [reveal]

    def task(self, index: int, rule: str, **slots: str) -> Conversation:
        """Returns one conversation in a random scenario that contains one sentence of `rule`."""
        scenario = self.rng.choice([s for s in SCENARIOS if s != "knowledge_query"])
        slots = {"name": self.name, **{name: draw_slot(self.rng, name) for name in FIXED}, **slots}
        write = self._trouble if scenario == "trouble_consult" else self._text
        return Conversation(write(scenario, rule, slots), scenario, index)

    def questions(self, index: int, doing: str) -> list[Conversation]:
        """Returns two to four knowledge queries; only their repetition reveals the interest."""
        most = 4 if self.style.extras else 2
        asked = several(self.rng, "know_ask", {"doing": doing}, self.rng.randint(2, most))
        talks = []
        for ask in asked:
            answer = several(self.rng, "know_answer", {"doing": doing}, self.rng.randint(most // 2, most - 1))
            talks.append(Conversation(chat(ask, " ".join(answer)), "knowledge_query", index))
        return talks

    def open(self, index: int, fact: Fact) -> Conversation:
        """The user mentions in passing that anything will do, or says so in a query."""
        general = fact.topic.section == "general"
        rule = "open" if general else "open_care"
        if not general or self.rng.random() >= OPEN_ASKED:
            return self.task(index, rule, ask=fact.topic.ask)
        texts = [say(self.rng, rule, {"ask": fact.topic.ask}) for rule in ("open_ask", "open_answer")]
        return Conversation(chat(*texts), "knowledge_query", index)

    def forget(self, index: int, fact: Fact) -> Conversation:
        """A query, a personalised answer, and a request to forget it, which stays unanswered as in the
        released data."""
        slots = {
            "doing": fact.topic.with_value(fact.first),
            "ask": fact.topic.ask,
            "friend": draw_slot(self.rng, "friend"),
        }
        suffix = "" if fact.topic.section == "general" else f"_{fact.topic.section}"
        texts = [say(self.rng, rule, slots) for rule in ("forget_ask", f"forget_answer{suffix}", "forget")]
        return Conversation(chat(*texts), "knowledge_query", index)

    def _text(self, scenario: str, rule: str, slots: dict[str, str]) -> list[Message]:
        """The user asks to improve a text, their own or one that they were given."""
        rng, style = self.rng, self.style
        body = self._sentences(SUBJECTS[scenario], slots, rng.randint(*style.sentences))
        body.insert(rng.randint(0, len(body)), say_pair(rng, rule, slots))
        middle, gap = len(body) // 2, " " if len(body) < 5 else "\n\n"
        rough = gap.join(self._joined([r for r, _ in part]) for part in (body[:middle], body[middle:]))
        polished = gap.join(" ".join(p for _, p in part) for part in (body[:middle], body[middle:]))
        if style.extras and scenario in ("personal_email", "professional_email", "translation"):
            suffix = "_work" if scenario == "professional_email" else ""
            hi, dear = say_pair(rng, f"greeting{suffix}", slots)
            bye, regards = say_pair(rng, f"closing{suffix}", slots)
            rough, polished = f"{hi}\n\n{rough}\n\n{bye}", f"{dear}\n\n{polished}\n\n{regards}"
        if not style.extras:
            return chat(f"{say(rng, f'request_{scenario}', slots)}\n{rough.strip()}", polished.strip())
        if scenario == "social_media_post":
            polished += "\n\n" + say(rng, "hashtags", slots).replace(" # ", " #")
        remark = say(rng, "story_end" if scenario == "creative_writing" else "tail", slots)
        texts = [
            f"{say(rng, f'request_{scenario}', slots)}\n\n{rough.strip()}",
            f"{say(rng, 'here_is', slots)}\n\n{polished.strip()}\n\n{remark}",
        ]
        return chat(*texts, *self._follow_up(slots))

    def _sentences(self, rule: str, slots: dict[str, str], count: int) -> list[tuple[str, str]]:
        """Sentences about something else; each is used again only after all sentences of its rule were
        used."""
        entries = load("grammar")[rule]
        sentences: list[tuple[str, str]] = []
        while len(sentences) < count:
            if not self.decks.get(rule):
                self.decks[rule] = shuffled(self.rng, range(len(entries)))
            sentences.append(pair(self.rng, entries[self.decks[rule].pop()], slots))
        return sentences

    def _joined(self, sentences: list[str]) -> str:
        """Joins rough sentences as a user would type them, some with a connecting word to the sentence
        before."""
        joined = sentences[:1]
        for sentence in sentences[1:]:
            word = sentence.split()[0]
            if self.rng.random() < LINKS and (word == "I" or word in LOWERED):
                link = self.rng.choice(load("grammar")["connector"])
                sentence = link + (sentence if word == "I" else sentence[0].lower() + sentence[1:])
            joined.append(sentence)
        return " ".join(joined)

    def _trouble(self, scenario: str, rule: str, slots: dict[str, str]) -> list[Message]:
        rng, few = self.rng, not self.style.extras
        passing, _ = say_pair(rng, rule, slots)
        details = several(rng, "trouble_more", slots, 0 if few else 3)
        details.insert(rng.randint(0, len(details)), passing)
        user = " ".join([say(rng, "request_trouble", slots), say(rng, "trouble", slots), *details])
        advice = several(rng, "advice", slots, 1 if few else rng.randint(3, 4))
        if few:
            return chat(user, advice[0])
        steps = "\n".join(f"{number}. {step}" for number, step in enumerate(advice, 1))
        answer = "\n\n".join([say(rng, "sympathy", slots), steps, say(rng, "advice_end", slots)])
        return chat(user, answer)

    def _follow_up(self, slots: dict[str, str]) -> list[str]:
        if self.rng.random() >= FOLLOW_UP:
            return []
        return list(say_pair(self.rng, "follow", slots))
