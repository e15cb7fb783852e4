"""Retrieval: whole messages, each once, in time order; BM25 finds the words, embeddings what they are told
to."""

import pytest

from rft.data.history import History, Message
from rft.data.prompt import final_message
from rft.data.question import Question
from rft.errors import DataError, ModelError
from rft.evaluate.model_answers import ModelAnswers
from rft.evaluate.retrieval import Retrieval

LABELS = {"kind": "tea"}


def question(query="Which tea ceremony suits me?"):
    return Question("benchmark-0", 0, "1", "h", query, ("a", "b", "c", "d"), "b", LABELS)


def history(turns, persona=True):
    messages = [Message("system", "persona: tea tea tea")] if persona else []
    return History(
        "h",
        "1",
        "",
        tuple(messages + [Message("user" if i % 2 == 0 else "assistant", t) for i, t in enumerate(turns)]),
    )


def long_history():
    turns = [f"talk about stone number {i}" for i in range(40)]
    turns[10], turns[31] = "a tea ceremony in Kyoto", "the tea was cold"
    return history(turns)


def shown(context, asked, given):
    return [m["content"] for m in context.messages(asked, given)[1:-1]]


def test_the_best_windows_in_the_order_they_were_said():
    found = shown(Retrieval(2), question(), long_history())
    assert "a tea ceremony in Kyoto" in found and "the tea was cold" in found
    numbers = [
        long_history().turns.index(Message(m["role"], m["content"]))
        for m in Retrieval(2).messages(question(), long_history())[1:-1]
    ]
    assert numbers == sorted(set(numbers)) and len(found) <= 12
    assert not any("persona" in text for text in found)


def test_messages_of_overlapping_windows_are_shown_once():
    given = long_history()
    found = shown(Retrieval(100), question(), given)
    assert found == [m.content for m in given.turns]
    assert Retrieval(100).read(question(), given) == "messages 1-40 of 40"
    assert Retrieval(1).read(question(), given) in (
        "messages 9-14 of 40",
        "messages 5-10 of 40",
        "messages 7-12 of 40",
    )


def test_the_conversation_ends_with_the_question():
    made = Retrieval(1).messages(question(), long_history())
    assert made[0]["role"] == "system" and made[-1] == {"role": "user", "content": final_message(question())}


def test_short_empty_and_wordless_histories():
    assert shown(Retrieval(3), question(), history(["tea?"])) == ["tea?"]
    assert shown(Retrieval(3), question("???"), history(["tea?", "yes"])) == ["tea?", "yes"]
    assert shown(Retrieval(3), question(), history(["?!", "…"])) == ["?!", "…"]
    # nothing fits: the latest
    assert shown(Retrieval(1), question("zzz"), long_history())[-1] == "talk about stone number 39"
    with pytest.raises(DataError, match="needs the question's history"):
        Retrieval().messages(question(), None)


def test_embeddings_embed_a_history_once():
    asked = []

    def embed(texts):
        asked.append(len(texts))
        return [[float("Kyoto" in text or "suits" in text), float("cold" in text), 0.001] for text in texts]

    context, given = Retrieval(1, embed, "words"), long_history()
    assert "a tea ceremony in Kyoto" in shown(context, question(), given)
    assert "the tea was cold" in shown(context, question("Is it cold?"), given)
    assert asked == [10, 1, 1] and context.settings["retriever"] == "embeddings: words"
    assert "passages" in context.settings and Retrieval().settings["retriever"] == "bm25"


def test_as_many_passages_as_there_is_room_for():
    given, asked = long_history(), question()
    assert list(Retrieval(3).counts(asked, given)) == [3]
    assert list(Retrieval("fit").counts(asked, given)) == list(range(10, 0, -1))
    assert list(Retrieval("fit").counts(asked, history(["tea?"]))) == [1]
    ways = Retrieval("fit").ways(asked, given)
    assert [way[0] for way in ways] == [Retrieval(count).messages(asked, given) for count in range(10, 0, -1)]
    assert ways[-1][1] == Retrieval(1).read(asked, given) and Retrieval("fit").settings["passages"] == "fit"


class Narrow:
    """A model that counts words and has room for 130 of them."""

    name, fingerprint, dtype, longest, end_ids = "narrow", "0", "float32", 130, [0]

    def __init__(self):
        self.tokenizer, self.prompts = self, []

    def apply_chat_template(self, messages, **options):
        return [1 for message in messages for _ in message["content"].split()]

    def generate(self, prompts, *settings):
        self.prompts += prompts
        return [[0] for _ in prompts]

    def decode(self, ids, **options):
        return ""


def test_a_model_without_room_says_how_many_passages_fit_and_takes_them():
    given, asked, narrow = long_history(), question(), Narrow()
    ways = r"the 130 positions of narrow; (\d+) passages would fit: give --passages \1, or --passages fit"
    with pytest.raises(ModelError, match=ways) as told:
        ModelAnswers(narrow, Retrieval(10), 20).answer([asked], given)
    fit = int(str(told.value).split(" passages would fit")[0].rsplit(" ", 1)[1])
    (answer,) = ModelAnswers(narrow, Retrieval("fit"), 20).answer([asked], given)
    assert (
        answer.read == Retrieval(fit).read(asked, given)
        and answer.input_tokens == len(narrow.prompts[0]) <= 110
    )
    with pytest.raises(ModelError, match="passages would fit"):
        ModelAnswers(narrow, Retrieval(fit + 1), 20).answer([asked], given)
    narrow.longest = 30
    for passages in (10, "fit"):
        with pytest.raises(ModelError, match="not even one passage fits"):
            ModelAnswers(narrow, Retrieval(passages), 20).answer([asked], given)
