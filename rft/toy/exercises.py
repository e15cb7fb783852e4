"""Texts from which the tiny base model learns to read: chats that recall what was said, and lettered lists looked up.

No text here is a question of the dataset: recalling what holds and finding a letter are exercises of their own, nothing asks to
choose an option, and there is no think block and no boxed letter. Document `i` of a seed is always the same, and documents grow
with `i`, from two topics to a whole history: the curriculum.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from rft.simulate import mini, mini_vocabulary

SYSTEM = "You are a helpful assistant who personalizes answers from the conversation history."
KINDS = ("own", "contrast", "update", "update", "forget", "forget", "others", "others")  # balanced, so that each kind is learned
VERDICTS = {"own": "", "others": ", not the user's own", "forget": ", forget it"}


def recall(doing: str, kind: str) -> str:
    """What the model says when it remembers what was said of a topic last, and whose it is (a key of `VERDICTS`)."""
    return f"Remembered: Enjoys {doing}{VERDICTS[kind]}."


def exercise(answer: str) -> str | None:
    """What an assistant turn of a `document` shows: a recall, by whose the preference is, "letter" or "drill"; None for small
    talk."""
    if answer.startswith(("Again: ", "Found: ")):
        return "drill"
    if answer.startswith("Remembered: "):
        return next((kind for kind, verdict in VERDICTS.items() if verdict and verdict in answer), "own")
    return "letter" if answer[:-2].endswith(tuple(f" is ({letter}" for letter in "abcd")) else None


def _listing(rng: Random, fact: mini.Fact) -> tuple[list[str], str]:
    gold, wrong = mini.options(rng, fact)
    texts = [gold, *wrong]
    rng.shuffle(texts)
    return texts, "Options:\n" + "\n".join(f"({letter}) {text}" for letter, text in zip("abcd", texts, strict=True))


def _lookup(rng: Random, texts: list[str], turns: int) -> list[dict[str, str]]:
    messages = []
    for index in rng.sample(range(4), turns):
        wanted = texts[index].rstrip(".")
        messages += mini.chat(f"Which letter has {wanted[0].lower()}{wanted[1:]}?", f"{wanted} is ({'abcd'[index]}).")
    return messages


def drill(rng: Random, sentences: float = 0.7, known: Sequence[Any] = mini_vocabulary.TOPICS,
          option: Callable[[str], str] = mini_vocabulary.option) -> list[dict[str, str]]:
    """Two short exercises, dense in what reading needs: say a list again, find the value of a topic, the letter of a value.
    `sentences` is the chance that lettered values stand in options as questions have them (`option`), not by themselves; `known`
    are the topics that there are.

    What is looked up is drawn with repetition, so nothing can be told by elimination.
    """
    messages: list[dict[str, str]] = []
    for kind in rng.choices(("repeat", "topics", "letters", "letters"), k=2):
        chosen = rng.sample(known, 4)
        same = kind == "letters" and rng.random() < 0.5  # four values of one topic, as in a question
        values = rng.sample(chosen[0].values, 4) if same else [rng.choice(topic.values) for topic in chosen]
        if kind == "repeat":
            said = " ".join(rng.choice(rng.choice(known).values) for _ in range(rng.randint(6, 20)))
            messages += mini.chat(f"Repeat: {said}", f"Again: {said}")
            continue
        if kind == "topics":
            given = [f"{topic.name}: {value}" for topic, value in zip(chosen, values, strict=True)]
            found = given
        else:
            topics = [chosen[0]] * 4 if same else chosen
            options = [option(t.with_value(v)) for t, v in zip(topics, values, strict=True)]
            shown = options if rng.random() < sentences else values
            given = [f"({letter}) {text}" for letter, text in zip("abcd", shown, strict=True)]
            found = [f"{value} ({letter})" for letter, value in zip("abcd", values, strict=True)]
        messages += mini.chat("Look up: " + "\n".join(given), "Found: " + ", ".join(rng.choice(found) for _ in range(6)))
    return messages


def document(seed: int, index: int, difficulty: float, drills: float = 0.0, sentences: float = 0.7) -> list[dict[str, str]]:
    """Document `index` as chat messages; `difficulty` in [0, 1] sets how many topics it has (2 to 8), `drills` is the chance
    that it is a drill instead, with `sentences` as there."""
    rng = Random(f"reading-{seed}-{index}")
    if rng.random() < drills:
        return drill(rng, sentences)
    topics = rng.randint(2, 2 + round(6 * difficulty))
    kinds, fillers = tuple(rng.sample(KINDS, topics)), rng.randint(0, round(2 * difficulty))
    persona = mini.draw_persona(Random(rng.getrandbits(40)), index, kinds, fillers)
    messages = [{"role": "system", "content": SYSTEM}]
    if rng.random() < difficulty:
        messages.append({"role": "system", "content": persona.system})
    known: dict[str, str] = {}  # topic -> what is to be recalled
    fact_of = {fact.topic.name: fact for fact in persona.facts}

    def ask(name: str) -> list[dict[str, str]]:
        fact = fact_of[name]
        texts, listing = _listing(rng, fact)
        asked = rng.choice((f"What do you know about me and {name}?", fact.topic.query))
        if rng.random() < 0.5:
            asked = f"{asked}\n\n{listing}"
        elif rng.random() < 0.4:
            messages.extend(mini.chat(listing, "I see."))
        else:
            return mini.chat(asked, known[name])
        return mini.chat(asked, known[name]) + _lookup(rng, texts, rng.randint(0, 2))

    for block in persona.blocks:
        messages += block.messages
        if (fact := block.fact) is not None:
            about_other = not block.after and fact.relative is not None and fact.relative in block.messages[0]["content"]
            if about_other and fact.kind == "others":
                known[fact.topic.name] = recall(fact.topic.with_value(fact.first), "others")
            elif block.after and fact.kind == "forget":
                known[fact.topic.name] = recall(fact.topic.with_value(fact.first), "forget")
            elif not about_other:
                value = fact.value if block.after and fact.value else fact.first
                known[fact.topic.name] = recall(fact.topic.with_value(value), "own")
        if known and rng.random() < 0.2:
            messages += ask(rng.choice(list(known)))
    names = list(known)
    rng.shuffle(names)
    for name in names:
        messages += ask(name)
    return messages


def question_words() -> list[str]:
    """The words of prompts and answers that no text here holds, for the tokenizer to know them."""
    return [
        "This is a multiple-choice question. Options:\nThink inside <think> and </think> tags, then put the letter of the best "
        "option in \\boxed{}.\n\\boxed{a} \\boxed{b} \\boxed{c} \\boxed{d}",
        "system\nuser\nassistant\n",
    ]
