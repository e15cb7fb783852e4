"""The tiny model: its tokenizer's markup, the look-up circuit it starts with, and what its base is trained
on."""

import re
from random import Random

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM, set_seed

from rft.errors import RecipeError
from rft.simulate import writer_mini
from rft.simulate.profile import PROFILES
from rft.simulate.topics import shipped
from rft.tasks.load import load_split
from rft.tasks.personamem.reasoning import reasoning
from rft.toy import exercises, grammar_exercises
from rft.toy.model import make_model, make_tokenizer
from rft.toy.pretrain import ReadingArguments, ReadingBatches


def test_the_markup_is_single_tokens(tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    for text in ("<|im_start|>", "<|im_end|>", "<think>", "</think>"):
        assert len(tokenizer(text)["input_ids"]) == 1
    ids = tokenizer("<think>ok</think><|im_end|>")["input_ids"]
    # the tags are text, not markup
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>ok</think>"
    text = "Straße 東京 🧩 \\boxed{a}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text  # any byte can be written


def test_the_first_layers_start_as_a_look_up_circuit():
    """Heads of layer 0 look 1, 2, 3, 4 tokens back; the first heads of layer 1 look behind the last copy of
    the present token."""
    set_seed(0)
    tokenizer = make_tokenizer(["some words to have a vocabulary of"] * 10, vocab_size=400)
    model: Qwen3ForCausalLM = make_model(tokenizer)
    model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(0)
    keys = torch.randperm(100, generator=generator)[:8]
    values = torch.randint(100, 200, (8,), generator=generator)
    order = torch.randperm(8, generator=generator)
    ids = torch.cat(
        [torch.stack([keys, values], 1).flatten(), torch.stack([keys[order], values[order]], 1).flatten()]
    )
    with torch.no_grad():
        back_HTT, match_HTT = (
            a[0] for a in model(input_ids=ids[None], output_attentions=True).attentions[:2]
        )
    for head in range(4):
        assert all(back_HTT[head, t].argmax() == t - head - 1 for t in range(8, 32))
    hits = [match_HTT[0, 16 + 2 * i].argmax() == 2 * order[i] + 1 for i in range(8)]
    assert sum(hits) >= 7


def test_no_reading_text_is_a_question_to_answer():
    """Topics are asked for and letters are looked up, but never is an option chosen, and nothing has the form
    of an answer."""
    for index in range(300):
        for message in exercises.document(0, index, index / 300, drills=0.3):
            assert not any(words in message["content"] for words in ("boxed", "think", "multiple-choice"))
            if message["role"] == "assistant" and message["content"].startswith("Remembered"):
                assert not re.search(r"\([a-d]\)", message["content"])


def test_recalls_say_what_holds_at_that_moment():
    """Every recall is of what the user, or somebody else, said last before it."""
    kinds = set()
    for index in range(200):
        messages = exercises.document(3, index, 1.0)
        for i, message in enumerate(messages):
            if not message["content"].startswith("Remembered"):
                continue
            before = [
                m["content"] for m in messages[:i] if m["role"] == "user" and "Options:" not in m["content"]
            ]
            value, kind = next(
                (v, k)
                for t in writer_mini.TOPICS
                for v in t.values
                for k in exercises.VERDICTS
                if message["content"] == exercises.recall(t.with_value(v), k)
            )
            topic = next(t for t in writer_mini.TOPICS if value in t.values)
            said = [text for text in before if any(topic.with_value(v) in text for v in topic.values)]
            about_others = [text for text in said if ", not " in text]
            own = [text for text in said if text not in about_others and not text.startswith("Which letter")]
            assert topic.with_value(value) in (about_others if kind == "others" else own)[-1]
            assert (kind == "others") == (not own)
            assert (kind == "forget") == bool(own and ", forget " in own[-1])
            kinds.add(kind)
    assert kinds == set(exercises.VERDICTS)


def test_recalls_of_the_grammars_chats_say_what_its_histories_reveal():
    """Whatever is recalled was said before, by its own words; of two values of a topic it is the one said
    last."""
    kinds = set()
    for index in range(150):
        messages = grammar_exercises.document(Random(index), 1.0)
        chats = [m["content"] for m in messages if m["role"] == "user" and "Options:" not in m["content"]]
        for message in messages:
            if not message["content"].startswith("Remembered"):
                continue
            if message["content"] == "Remembered: nothing.":
                kinds.add("nothing")
                continue
            given_up = message["content"].endswith(", given up.")
            kind = "given up" if given_up else exercises.exercise(message["content"])
            verdict = ", given up" if given_up else exercises.VERDICTS[kind]
            doing = message["content"].removeprefix("Remembered: Enjoys ").removesuffix(f"{verdict}.")
            topic = next(t for t in shipped() for value in t.values if t.with_value(value) == doing)
            said = {
                place: value
                for place, text in enumerate(chats)
                for value in topic.values
                if not text.startswith("Which letter") and topic.with_value(value) in text
            }
            assert topic.with_value(said[max(said)]) == doing or kind == "own" and doing in " ".join(chats)
            kinds.add(kind)
    assert kinds == {*exercises.VERDICTS, "nothing", "given up"}


def test_letters_of_the_grammars_options_are_where_they_stand():
    looked_up = 0
    for index in range(60):
        listing = ""
        for message in grammar_exercises.document(Random(index), 1.0):
            text = message["content"]
            assert not any(words in text for words in ("boxed", "<think", "multiple-choice"))
            listing = text if "Options:" in text else listing
            if message["role"] == "assistant" and exercises.exercise(text) == "letter":
                doing, letter = text[0].lower() + text[1:-8], text[-3]
                option = next(line for line in listing.splitlines() if line.startswith(f"({letter})"))
                assert doing in option or doing[0].upper() + doing[1:] in option
                looked_up += 1
    assert looked_up > 100


def test_a_base_learns_the_exercises_in_the_grammars_chats_and_no_small_talk():
    tokenizer = make_tokenizer(["some words to have a vocabulary of"] * 10, vocab_size=400)
    arguments = ReadingArguments(
        texts="grammar", documents_per_step=2, drill_steps=1, grow_steps=1, memories=0.0
    )
    batch = ReadingBatches(tokenizer, arguments, 30, seed=0)[20]
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        whole, learned = tokenizer.decode(ids), tokenizer.decode(ids[labels != -100])
        said = [part.split("<|im_end|>")[0] for part in whole.split("<|im_start|>assistant\n")[1:]]
        assert learned == "".join(f"{text}<|im_end|>" for text in said if exercises.exercise(text)) != ""
        assert len(said) > learned.count("<|im_end|>")


def test_words_that_there_are_not_are_named():
    tokenizer = make_tokenizer(["a few words"], vocab_size=300)
    with pytest.raises(RecipeError, match="texts 'middle': expected mini or grammar"):
        ReadingBatches(tokenizer, ReadingArguments(texts="middle"), 1, seed=0)[0]


def test_the_cold_start_reasons_in_the_words_the_base_recalls_with(mini_data):
    split = load_split(mini_data, "train")
    recalls = {
        exercises.recall(topic.with_value(value), kind)
        for topic in writer_mini.TOPICS
        for value in topic.values
        for kind in exercises.VERDICTS
    }
    for question in split.questions:
        said = reasoning(question).rsplit(". ", 1)[0] + "."
        # the base has no word for it
        ended = question.kind == "changed" and not question.labels["preference"]
        assert said.endswith(", given up.") if ended else said in recalls


def test_loss_is_on_the_assistants_turns_alone(tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    batches = ReadingBatches(
        tokenizer, ReadingArguments(documents_per_step=2, drill_steps=1, grow_steps=1), steps=50, seed=0
    )
    batch = batches[30]
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        learned = tokenizer.decode(ids[labels != -100])
        turns = tokenizer.decode(ids).split("<|im_start|>assistant\n")[1:]
        assert learned == "".join(turn.split("<|im_end|>")[0] + "<|im_end|>" for turn in turns)
    again = ReadingBatches(
        tokenizer, ReadingArguments(documents_per_step=2, drill_steps=1, grow_steps=1), steps=50, seed=0
    )[30]
    assert torch.equal(batch["input_ids"], again["input_ids"])


def test_categories_of_a_persona_are_kept():
    profile = PROFILES["mini"]
    assert sum(profile.counts.values()) == sum(profile.forget.values()) == 8
    assert set(profile.counts) == set(profile.forget) == set(writer_mini.ENDINGS)
