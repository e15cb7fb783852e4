"""Reading exercises on the offline grammar's chats: those of `rft.toy.exercises`, in the grammar's words.

A preference is mentioned in passing among other matters, with thousands of values for hundreds of topics.
Invariant: no text is a question of the dataset. Nothing asks to choose an option, and there is no think block
and no boxed letter.
"""

from random import Random

from rft.data.prompt import SYSTEM, lettered
from rft.simulate.conversation import SHORT, Talk
from rft.simulate.facts import Fact, draw_facts
from rft.simulate.filler import fillers
from rft.simulate.grammar import load, say
from rft.simulate.history import order
from rft.simulate.persona import make_persona, system_message
from rft.simulate.persona_record import chat
from rft.simulate.question import item_of
from rft.simulate.topics import shipped
from rft.toy import exercises


def drill(rng: Random, sentences: float = 0.7) -> list[dict[str, str]]:
    """Makes two short exercises, as `exercises.drill` does, from the grammar's topics."""
    topics = [topic for topic in shipped() if topic.section == "general"]
    return exercises.drill(
        rng, sentences, topics, lambda doing: rng.choice(load("grammar")["option"]).format(doing=doing)
    )


def document(
    rng: Random, difficulty: float, drills: float = 0.0, sentences: float = 0.7
) -> list[dict[str, str]]:
    """Draws a text as chat messages.

    Args:
        rng: source of all draws.
        difficulty: from 0 to 1, raises the maximum number of topics from 2 to 8.
        drills: probability of a `drill` instead of a chat.
        sentences: as in `drill`.
    """
    if rng.random() < drills:
        return drill(rng, sentences)
    persona = make_persona(rng.getrandbits(40), 0)
    facts = draw_facts(rng, persona, shipped(), {"general": rng.randint(2, 2 + round(6 * difficulty))})
    talk = Talk(rng, persona, SHORT)
    conversations = [c for index, fact in enumerate(facts) for c in talk.about(index, fact)]
    blocks = [block.messages for block in order(rng, conversations)]
    source = fillers(rng)
    for _ in range(rng.randint(0, round(3 * difficulty))):
        blocks.insert(rng.randint(0, len(blocks)), next(source))
    messages = [{"role": "system", "content": SYSTEM}]
    if rng.random() < difficulty:
        messages.append({"role": "system", "content": system_message(persona)})
    messages += [message for block in blocks for message in block]
    for fact in rng.sample(facts, len(facts)):
        messages += _ask(rng, fact)
    return messages


def _ask(rng: Random, fact: Fact) -> list[dict[str, str]]:
    """Asks to recall the current preference on a topic, and sometimes to find the letters of its values."""
    doing, kind = fact.topic.with_value(fact.current or fact.first), "own" if fact.current else fact.kind
    nothing = {"open": "nothing", "untold": "nothing", "ended": f"Enjoys {doing}, given up"}.get(kind)
    answer = f"Remembered: {nothing}." if nothing else exercises.recall(doing, kind)
    item = item_of(rng, 0, fact, extras=False)
    options = rng.sample([item.gold, *item.distractors], 4)
    other_words = say(rng, "query", {"ask": fact.topic.ask})
    asked = rng.choice((item.query, f"What do you know about me and {fact.topic.name}?", other_words))
    if rng.random() < 0.25:
        return chat(asked, answer)
    messages = chat("\n".join([f"{asked}\n\nOptions:", *lettered(options)]), answer)
    for value in rng.sample(fact.shown, rng.randint(0, 2)):
        doing = fact.topic.with_value(value)
        letter = "abcd"[next(i for i, option in enumerate(options) if doing in option)]
        messages += chat(f"Which letter has {doing}?", f"{doing[0].upper()}{doing[1:]} is ({letter}).")
    return messages
