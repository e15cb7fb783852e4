"""Chunks lose nothing and fit; an update's prompt holds its chunk and the memory before it, and nothing of a
question or a later chunk."""

import random

import pytest
from transformers import AutoTokenizer

from rft.data.history import History, Message, history_id
from rft.data.prompt import PromptTokens
from rft.errors import DataError, ModelError
from rft.memory import chunks
from rft.memory.agent import MemoryAgent, MemorySettings, answer_message, update_message
from rft.memory.chunks import CONTINUED, CONTINUES
from rft.simulate import writer_mini
from rft.tasks.load import load_split


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return AutoTokenizer.from_pretrained(tiny_checkpoint)


def history(*messages: tuple[str, str]) -> History:
    told = tuple(Message(role, content) for role, content in messages)
    return History(history_id(told), "7", "chat.json", told)


def joined(pieces: list[chunks.Chunk]) -> str:
    """The contents of all chunks, the marks of split messages taken out."""
    texts = [message.content for chunk in pieces for message in chunk.history.messages]
    return "\n".join(texts).replace(f"{CONTINUES}\n{CONTINUED}", "")


@pytest.mark.parametrize("most", [40, 90, 160, 5000])
def test_chunks_are_the_conversation_in_order_and_fit(tokenizer, mini_data, most):
    tokens = PromptTokens(tokenizer, "history")
    empty = len(PromptTokens(tokenizer, "none").history_ids(None))
    for of in list(load_split(mini_data, "benchmark").histories.values())[:5]:
        found = chunks.split(of, tokens, most)
        # the persona message is left out
        assert joined(found) == "\n".join(message.content for message in of.turns)
        assert all(len(tokens.history_ids(chunk.history)) - empty <= most for chunk in found)
        assert [chunk.first for chunk in found] == sorted(chunk.first for chunk in found)
        assert found[0].first == 1 and found[-1].last == len(of.messages) - 1


def test_one_very_long_message_is_split_with_a_mark(tokenizer):
    rng = random.Random(0)
    text = " ".join(rng.choice(("jazz", "tea", "piano", "Straße", "東京")) for _ in range(41_000))
    assert len(text) > 200_000
    of = history(("user", text), ("assistant", "ok"))
    found = chunks.split(of, PromptTokens(tokenizer), 5000)
    assert joined(found) == text + "\nok"
    assert len(found) > 5
    assert found[0].history.messages[0].content.endswith(CONTINUES)
    assert found[1].history.messages[0].content.startswith(CONTINUED)
    assert {(chunk.first, chunk.last) for chunk in found[:-1]} == {(0, 0)}


def test_noise_without_a_space_is_split_too(tokenizer):
    rng = random.Random(1)
    text = "".join(chr(rng.choice((*range(1, 500), 0x1F9E9))) for _ in range(3000))
    assert joined(chunks.split(history(("user", text)), PromptTokens(tokenizer), 300)) == text


def test_only_the_newest_chunks_are_read_where_there_are_more(tokenizer, caplog):
    of = history(*[("user", f"message {i}") for i in range(30)])
    every = chunks.split(of, PromptTokens(tokenizer), 60)
    newest = chunks.split(of, PromptTokens(tokenizer), 60, max_chunks=2)
    assert len(every) > 2
    assert newest == every[-2:]
    assert f"{len(every)} chunks; reading only the 2 most recent" in caplog.text


def test_a_history_without_conversation_is_refused(tokenizer):
    with pytest.raises(DataError, match="chat.json: no conversation after the persona message"):
        chunks.split(history(("system", "persona")), PromptTokens(tokenizer), 100)
    with pytest.raises(DataError, match="chunk_tokens 8 is too small"):
        chunks.split(history(("user", "far too long for this " * 9)), PromptTokens(tokenizer), 8)


def test_prompts_are_the_templates_own_rendering(tokenizer, mini_data):
    agent = MemoryAgent(tokenizer, MemorySettings(100, 60))
    split = load_split(mini_data, "val")
    question = split.questions[0]
    for chunk in agent.chunks(split.history_of(question)):
        said = [
            {"role": "system", "content": agent.tokens._short[0]["content"]},
            *({"role": m.role, "content": m.content} for m in chunk.history.messages),
            {"role": "user", "content": update_message("- Enjoys tea.")},
        ]
        whole = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        assert agent.update_ids(chunk, "- Enjoys tea.") == whole
    shown = tokenizer.decode(agent.answer_ids(question, "- Enjoys tea."))
    assert answer_message("- Enjoys tea.", question.query) in shown


def test_no_question_no_option_and_no_later_chunk_is_in_an_update_prompt(tokenizer, mini_data):
    """Token for token: an update's prompt is made of its chunk, the memory and fixed words, whatever is asked
    and said later."""
    split = load_split(mini_data, "train")
    agent = MemoryAgent(tokenizer, MemorySettings(100, 60))
    for of in list(split.histories.values())[:10]:
        asked = [question for question in split.questions if question.history_id == of.id]
        found = agent.chunks(of)
        assert len(found) > 2
        for place, chunk in enumerate(found):
            shown = tokenizer.decode(agent.update_ids(chunk, "- Enjoys tea."))
            for question in asked:
                assert question.query not in shown
                assert all(option not in shown for option in question.options)
            assert all(
                m.content not in shown or m.content in chunk.text
                for later in found[place + 1 :]
                for m in later.history.messages
            )
            assert all(message.content in shown for message in chunk.history.messages)
        # the same beginning of a history with another end: the same prompts
        cut = history(
            *[(m.role, m.content) for m in of.messages[: found[1].first]],
            ("user", "Something else altogether. " * 60),
        )
        assert agent.update_ids(agent.chunks(cut)[0], "") == agent.update_ids(found[0], "")


def test_the_answers_prompt_holds_the_memory_and_nothing_of_the_history(tokenizer):
    _, _, conversations = writer_mini.draw(random.Random(0), 1, ["own", "update", "others"])
    agent = MemoryAgent(tokenizer, MemorySettings())
    shown = tokenizer.decode(agent.say_ids("What should I drink?", "- Enjoys drinking tea."))
    assert "- Enjoys drinking tea." in shown
    assert all(m["content"] not in shown for conversation in conversations for m in conversation.messages)


def test_what_is_accepted_is_within_budget(tokenizer):
    agent = MemoryAgent(tokenizer, MemorySettings(100, 30))
    lines = [f"- {writer_mini.option(topic.with_value(topic.values[0]))}" for topic in writer_mini.TOPICS]
    ids = tokenizer("\n".join(lines))["input_ids"]
    update = agent.accept([*ids, tokenizer.eos_token_id], "", [tokenizer.eos_token_id])
    assert update.cut
    assert 0 < agent.count(update.memory) <= 30
    assert update.memory.splitlines() == lines[: len(update.memory.splitlines())]


def test_an_update_cut_within_a_character_stores_no_half_of_it(tokenizer):
    agent = MemoryAgent(tokenizer, MemorySettings(100, 60))
    ids = tokenizer("- tea: 日本 green\n- mood: 😀👩‍👧\n- city: שלום")["input_ids"]
    memories = {
        agent.accept(ids[:length], "", [tokenizer.eos_token_id]).memory for length in range(len(ids) + 1)
    }
    assert memories == {"", "- tea: 日本 green", "- tea: 日本 green\n- mood: 😀👩‍👧"}


def test_settings_are_checked():
    with pytest.raises(ValueError, match="memory_tokens 0: expected 1 or more"):
        MemorySettings(memory_tokens=0)


def test_a_tokenizer_without_markup_is_refused(tokenizer):
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(ModelError, match="no special token before a user message"):
        MemoryAgent(plain, MemorySettings())
