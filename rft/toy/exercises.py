"""Reading exercises for the tiny base model: chats in which preferences are recalled, and look-ups in
lettered lists.

Invariant: no text here is a question of the dataset. Recalling a preference and finding a letter are separate
exercises, nothing asks to choose an option, and there is no think block and no boxed letter. Document `i` of
a seed is always the same. Documents grow with their difficulty, from two topics to a whole history: this is
the curriculum.
"""

from collections.abc import Callable, Sequence
from random import Random

from rft.data.prompt import SYSTEM, lettered
from rft.simulate import writer_mini
from rft.simulate.facts import Fact
from rft.simulate.memory_targets import is_theirs
from rft.simulate.persona import system_message
from rft.simulate.persona_record import chat
from rft.simulate.topics import Topic

# balanced, so that each kind is learned
KINDS = ("own", "beside", "update", "update", "forget", "forget", "others", "others")
VERDICTS = {"own": "", "others": ", not the user's own", "forget": ", forget it"}


def recall(doing: str, kind: str) -> str:
    """Returns the answer that recalls the latest preference on a topic; `kind` (a key of `VERDICTS`) is whose
    it is."""
    return f"Remembered: Enjoys {doing}{VERDICTS[kind]}."


def exercise(answer: str) -> str | None:
    """Classifies an assistant turn of a `document`.

    Returns:
        The kind of a recall ("own", "others" or "forget"), "letter" or "drill"; None for small talk.
    """
    if answer.startswith(("Again: ", "Found: ")):
        return "drill"
    if answer.startswith("Remembered: "):
        return next((kind for kind, verdict in VERDICTS.items() if verdict and verdict in answer), "own")
    return "letter" if answer[:-2].endswith(tuple(f" is ({letter}" for letter in "abcd")) else None


def _listing(rng: Random, fact: Fact) -> tuple[list[str], str]:
    gold, wrong = writer_mini.draw_options(rng, fact)
    texts = [gold, *wrong]
    rng.shuffle(texts)
    return texts, "\n".join(["Options:", *lettered(texts)])


def _lookup(rng: Random, texts: list[str], turns: int) -> list[dict[str, str]]:
    messages = []
    for index in rng.sample(range(4), turns):
        option_text = texts[index].rstrip(".")
        messages += chat(
            f"Which letter has {option_text[0].lower()}{option_text[1:]}?",
            f"{option_text} is ({'abcd'[index]}).",
        )
    return messages


def drill(
    rng: Random,
    sentences: float = 0.7,
    topic_pool: Sequence[Topic] = writer_mini.TOPICS,
    option: Callable[[str], str] = writer_mini.option,
) -> list[dict[str, str]]:
    """Makes two short exercises: repeat a list, or find the value of a topic or the letter of a value.

    What is looked up is drawn with repetition, so that elimination does not help.

    Args:
        rng: source of all draws.
        sentences: probability that lettered values are written as the options of a question (by `option`),
            not as bare values.
        topic_pool: topics to draw from.
        option: turns a text such as "going by train" into an option.

    Returns:
        Chat messages.
    """
    messages: list[dict[str, str]] = []
    for kind in rng.choices(("repeat", "topics", "letters", "letters"), k=2):
        chosen = rng.sample(topic_pool, 4)
        same = kind == "letters" and rng.random() < 0.5  # four values of one topic, as in a question
        values = rng.sample(chosen[0].values, 4) if same else [rng.choice(topic.values) for topic in chosen]
        if kind == "repeat":
            words = " ".join(rng.choice(rng.choice(topic_pool).values) for _ in range(rng.randint(6, 20)))
            messages += chat(f"Repeat: {words}", f"Again: {words}")
            continue
        if kind == "topics":
            given = [f"{topic.name}: {value}" for topic, value in zip(chosen, values, strict=True)]
            answers = given
        else:
            topics = [chosen[0]] * 4 if same else chosen
            options = [option(t.with_value(v)) for t, v in zip(topics, values, strict=True)]
            given = lettered(options if rng.random() < sentences else values)
            answers = [f"{value} ({letter})" for letter, value in zip("abcd", values, strict=True)]
        messages += chat(
            "Look up: " + "\n".join(given), "Found: " + ", ".join(rng.choice(answers) for _ in range(6))
        )
    return messages


def document(
    seed: int, index: int, difficulty: float, drills: float = 0.0, sentences: float = 0.7
) -> list[dict[str, str]]:
    """Returns a document as chat messages.

    Args:
        seed: seed of the documents.
        index: number of the document.
        difficulty: from 0 to 1, raises the maximum number of topics from 2 to 8.
        drills: probability of a `drill` instead of a chat.
        sentences: as in `drill`.
    """
    rng = Random(f"reading-{seed}-{index}")
    if rng.random() < drills:
        return drill(rng, sentences)
    topics = rng.randint(2, 2 + round(6 * difficulty))
    kinds, fillers = tuple(rng.sample(KINDS, topics)), rng.randint(0, round(2 * difficulty))
    persona, facts, conversations = writer_mini.draw(Random(rng.getrandbits(40)), index, kinds, fillers)
    messages = [{"role": "system", "content": SYSTEM}]
    if rng.random() < difficulty:
        messages.append({"role": "system", "content": system_message(persona)})
    expected_recall: dict[str, str] = {}  # topic -> expected recall
    fact_of = {fact.topic.name: fact for fact in facts}

    def ask(name: str) -> list[dict[str, str]]:
        fact = fact_of[name]
        texts, listing = _listing(rng, fact)
        asked = rng.choice((f"What do you know about me and {name}?", fact.topic.ask))
        if rng.random() < 0.5:
            asked = f"{asked}\n\n{listing}"
        elif rng.random() < 0.4:
            messages.extend(chat(listing, "I see."))
        else:
            return chat(asked, expected_recall[name])
        return chat(asked, expected_recall[name]) + _lookup(rng, texts, rng.randint(0, 2))

    for conversation in conversations:
        messages += conversation.messages
        if conversation.about is not None:
            fact = facts[conversation.about]
            later = conversation.place == "later"
            kind = fact.kind if fact.kind == "others" or (fact.kind == "forget" and later) else "own"
            if kind != "own" or not is_theirs(writer_mini.mini_preference(fact), conversation):
                value = fact.current if later and fact.current else fact.first
                expected_recall[fact.topic.name] = recall(fact.topic.with_value(value), kind)
        if expected_recall and rng.random() < 0.2:
            messages += ask(rng.choice(list(expected_recall)))
    names = list(expected_recall)
    rng.shuffle(names)
    for name in names:
        messages += ask(name)
    return messages


def question_words() -> list[str]:
    """Returns texts with the words of prompts and answers that occur in no exercise, so that the tokenizer
    learns them."""
    return [
        (
            "This is a multiple-choice question. Options:\nThink inside <think> and </think> tags, then put"
            " the letter of the best option in \\boxed{}.\n\\boxed{a} \\boxed{b} \\boxed{c} \\boxed{d}"
        ),
        "system\nuser\nassistant\n",
    ]
