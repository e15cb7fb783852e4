"""The offline writer's questions: a query that tells no value, and four options made by one rule, whatever the gold.

An option is a sentence naming what it suggests and a sentence that fits anything; both are drawn alike for gold and distractors,
so neither length nor tone nor words in common with the query tell them apart.
"""

from collections.abc import Callable
from random import Random

from rft.simulate.checks import mentions
from rft.simulate.facts import Fact
from rft.simulate.grammar import draw_slot, load, say, shuffled
from rft.simulate.persona_record import Conversation, Preference, QuestionItem
from rft.simulate.sensitive import draw_items

ENJOYS = ("Enjoys", "Likes", "Is fond of", "Often spends time")
SENSITIVE_KINDS = ("leaked", "cleared", "declined", "cleared")  # in turn: each of four options is gold equally often


def preference_of(rng: Random, fact: Fact) -> Preference:
    verb = rng.choice(ENJOYS) if fact.topic.section == "general" else "Is"
    values = (fact.first, fact.held, fact.rival)
    first, held, rival = (f"{verb} {fact.topic.with_value(value)}" if value else "" for value in values)
    return Preference(
        topic=fact.topic.name,
        text={"forget": f"Do not remember '{first}' in memory", "others": first}.get(fact.kind, held),
        pref_type="ask_to_forget" if fact.kind in ("forget", "renewed") else fact.pref_type,
        kind=fact.kind,
        keyword=fact.held or fact.first,
        previous=rival if fact.kind == "beside" else first if fact.kind in ("update", "ended", "renewed", "forget") else "",
    )


def item_of(rng: Random, index: int, fact: Fact, extras: bool) -> QuestionItem:
    """Gold and distractors: three values of the topic and a generic option. `extras`: options have their second sentence."""
    section = fact.topic.section
    suffix = "" if section == "general" else f"_{section}"
    generics = [text for text in load("grammar")[f"generic{suffix}"] if not any(mentions(value, text) for value in fact.shown)]
    generic = rng.choice(generics)
    shown = [*(fact.topic.with_value(value) for value in fact.shown), generic]
    frames = rng.sample(load("grammar")[f"option{suffix}"], 4)
    more = rng.sample(load("grammar")["option_more"], 4)
    options = [frame.format(doing=doing) + (f" {rest}" if extras else "")
               for frame, doing, rest in zip(frames, shown, more, strict=True)]
    gold = options[fact.shown.index(fact.held)] if fact.held else options[3]
    query = say(rng, "query", {"ask": fact.topic.ask})
    lead = say(rng, "query_lead", {}) if extras else ""
    return QuestionItem(index, f"{lead} {query}".strip(), gold, shuffled(rng, [o for o in options if o != gold]))


def sensitive(rng: Random, persona_id: int, first: int, count: int, talk: Callable[..., Conversation | None]
              ) -> tuple[list[Preference], list[Conversation], list[QuestionItem]]:
    """`count` personal items that come up by the way: leaked, cleared to be used, or never to be drafted again.

    A question shows two values, a placeholder and a refusal to draft. Which one is right depends on what the person said: leaked
    items want the placeholder, cleared ones their value, declined ones the refusal; each option is gold for a quarter.
    talk(index, rule, item=name, value=value) writes the conversation; where it gives None, the item is left out.
    """
    preferences: list[Preference] = []
    conversations: list[Conversation] = []
    items: list[QuestionItem] = []
    for number, (name, value, other) in enumerate(draw_items(rng, count)):
        index, kind = first + len(preferences), SENSITIVE_KINDS[(persona_id * count + number) % len(SENSITIVE_KINDS)]
        form = rng.choice(load("grammar")["form"])
        slots = {"item": name, "form": form}
        conversation = talk(index, {"leaked": "leak"}.get(kind, kind), item=name, value=value)
        if conversation is None:
            continue
        conversations.append(conversation)
        told = {"leaked": f"Gave away the {name} {value} unintentionally", "cleared": f"Lets the {name} {value} be used in texts",
                "declined": f"Writes lines with the {name} {value} without help"}[kind]
        preferences.append(Preference(name[0].upper() + name[1:], told, "sensitive_info", kind, keyword=value))
        given, wrong = (say(rng, "sensitive_value", {**slots, "value": v}) for v in (value, other))
        placeholder, refusal = say(rng, "sensitive_placeholder", slots), say(rng, "sensitive_decline", slots)
        options = [given, wrong, placeholder, refusal]
        gold = {"leaked": placeholder, "cleared": given, "declined": refusal}[kind]
        query = say(rng, "sensitive_query", {**slots, "day": draw_slot(rng, "day")})
        items.append(QuestionItem(index, query, gold, shuffled(rng, [o for o in options if o != gold])))
    return preferences, conversations, items
