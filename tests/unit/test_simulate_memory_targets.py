"""Memory targets of every profile: they follow from the conversations, message by message, and at the end say
what holds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import reward
from reward.memory import sensitive_absent, speaks_of
from rft.data.faults import mentions
from rft.memory.agent import MemoryAgent, MemorySettings
from rft.memory.text import TOPIC_WORDS, Update
from rft.simulate.history import Assembled, assemble, count_words
from rft.simulate.memory_targets import THEIRS, line_of, previous_value, targets
from rft.simulate.persona_record import (
    SENSITIVE_KINDS,
    Conversation,
    Persona,
    PersonaRecord,
    Preference,
    chat,
)
from rft.simulate.pipeline import offline_writer, simulate
from rft.simulate.profile import PROFILES, Settings
from rft.tasks.load import load_split
from rft.tasks.memory_targets import MEMORY_TARGETS, MemoryTargets, about, load_memory_targets
from rft.train.memory_rows import sft_rows

PERSONAS = {"mini": 60, "middle": 60, "paper": 20}  # enough for every kind
WINDOWS = [(name, window) for name, profile in PROFILES.items() for window in profile.windows]
Story = tuple[PersonaRecord, Assembled, MemoryTargets]


def story(name: str, window: str, record: PersonaRecord) -> Story:
    budget = PROFILES[name].windows[window]
    history = assemble(record, window, budget and 2 * budget, count_words, seed=0)
    line = line_of(record, history.conversations, "link")
    return record, history, MemoryTargets(tuple(targets(record, history.conversations)), line["withdrawn"])


def stories(name: str, window: str) -> list[Story]:
    writer = offline_writer(Settings(name, PERSONAS[name], seed=0))
    return [story(name, window, writer.write(persona_id)) for persona_id in range(PERSONAS[name])]


def expected(preference: Preference) -> str | None:
    """The line about a preference at the end of the history."""
    topic = preference.topic.lower()
    if preference.kind in ("open", "untold", "mention", *SENSITIVE_KINDS):
        return None
    if preference.kind == "forget":
        return f"{topic}: forgotten." if len(topic.split()) <= TOPIC_WORDS else None
    if preference.kind == "ended":
        doing = preference.previous.split(
            maxsplit={"Is": 3, "Often": 3}.get(preference.previous.split()[0], 1)
        )
        return f"{topic}: Gave up {doing[-1]}."
    return f"{topic}: {preference.text}{THEIRS if preference.kind == 'others' else ''}."


@pytest.mark.parametrize(("name", "window"), WINDOWS)
def test_the_last_memory_says_what_holds_of_every_preference(name: str, window: str) -> None:
    kinds = set()
    for record, history, found in stories(name, window):
        held = found.lines(len(history.messages))
        lines = {p.previous or p.text: expected(p) for p in record.preferences}
        assert held == {key: line for key, line in lines.items() if line}
        kinds |= {preference.kind for preference in record.preferences}
    of_all = {"own", "update", "ended", "renewed", "forget", "beside", "others"}
    of_all |= {"mention"} if name == "mini" else {"open", "untold"}
    assert kinds == of_all | set(SENSITIVE_KINDS if name == "paper" else ())


@pytest.mark.parametrize(("name", "window"), WINDOWS)
def test_a_target_is_at_the_message_that_reveals_changes_or_withdraws(name: str, window: str) -> None:
    """A target names what its own message says, by the words of the user."""
    for record, history, found in stories(name, window):
        of = {p.previous or p.text: p for p in record.preferences}
        for target in found.notes:
            message, preference = history.messages[target.message], of[target.about]
            assert message["role"] == "user"
            line = (target.written or target.line or "").removesuffix(", forget it.").removesuffix(".")
            value = max(
                (v for v in (preference.keyword, previous_value(preference)) if v and v in line), key=len
            )
            assert value in message["content"]


@pytest.mark.parametrize(("name", "window"), WINDOWS)
def test_no_memory_at_any_time_holds_what_it_must_not(name: str, window: str) -> None:
    """Nothing of somebody else as the user's own, nothing sensitive, nothing after the request to forget
    it."""
    theirs = withdrawn = 0
    for record, history, found in stories(name, window):
        asked = {t.about: t.message for t in found.notes if t.written}
        memories = [(t.message, found.lines(t.message)) for t in found.notes]
        for preference in record.preferences:
            key = preference.previous or preference.text
            if preference.kind in SENSITIVE_KINDS:
                assert not any(preference.keyword in line for _, held in memories for line in held.values())
            for message, held in memories:
                line = held.get(key, "")
                if preference.kind == "others" or (preference.kind == "beside" and key in line):
                    assert not line or line.endswith(f"{THEIRS}.")
                    theirs += bool(line)
                if preference.kind in ("renewed", "forget") and message >= asked[key]:
                    assert not mentions(previous_value(preference), line)
                    withdrawn += 1
        assert found.withdrawn == [
            previous_value(p) for p in record.preferences if p.kind in ("renewed", "forget")
        ]
        last = found.memory(len(history.messages))
        assert not any(mentions(phrase, last) for phrase in found.withdrawn)
        assert sensitive_absent([[last]]) == [1.0]
    assert theirs > 50 and withdrawn > 50


@pytest.mark.parametrize(("name", "window"), WINDOWS)
def test_somebody_elses_value_beside_the_users_own_is_a_target_only_before_it(name: str, window: str) -> None:
    first = later = 0
    for record, history, found in stories(name, window):
        for preference in record.preferences:
            if preference.kind == "beside":
                lines = [t.line for t in found.notes if t.about == preference.previous]
                topic, rival = preference.topic.lower(), previous_value(preference)
                own = f"{topic}: {preference.text}."
                said = [
                    any(mentions(rival, m["content"]) for m in c.messages)
                    for c in history.conversations
                    if c.about == record.preferences.index(preference)
                ]
                assert lines == ([f"{topic}: {preference.previous}{THEIRS}.", own] if said[0] else [own])
                first, later = first + said[0], later + said[1]
    assert min(first, later) > 5


def test_a_value_is_told_from_the_same_word_in_another_sense() -> None:
    own, rival = (
        Conversation(chat(text, "Done."), "social_media_post", 0)
        for text in ("Polish my post: nothing beats learning Latin.", "It is about learning Polish, not me.")
    )
    preference = Preference(
        "Languages",
        "Enjoys learning Latin",
        "neutral_preferences",
        "beside",
        "Latin",
        "Enjoys learning Polish",
    )
    record = PersonaRecord(Persona(0, {"short_persona": "A"}), [preference], [], [], {}, {})
    assert [t.line for t in targets(record, [rival, own])] == [
        "languages: Enjoys learning Polish, not the user's own.",
        "languages: Enjoys learning Latin.",
    ]


def test_an_interest_shown_by_repeated_queries_is_a_target_from_the_second_on() -> None:
    repeated = 0
    for record, history, found in stories("paper", "32k"):
        place, at = 1, dict[int, list[int]]()
        for conversation in history.conversations:
            if conversation.about is not None:
                at.setdefault(conversation.about, []).append(place)
            place += len(conversation.messages)
        for index, preference in enumerate(record.preferences):
            if preference.kind == "own" and len(at[index]) > 1:
                assert [t.message for t in found.notes if t.about == preference.text] == [at[index][1]]
                repeated += 1
    assert repeated > 10


def test_targets_of_text_that_an_llm_wrote() -> None:
    """Its words are free: the line is the statement, at the user's message that names it or at the last."""
    preferences = [
        Preference("Tea", "Drinks Assam tea\nat dawn.", "neutral_preferences", "own", "Assam tea"),
        Preference("Walks", "Enjoys night walks", "neutral_preferences", "others", "night walks"),
        Preference(
            "Running", "Swims in the lake", "neutral_preferences", "update", "the lake", "Runs at noon"
        ),
        Preference(
            "Old board games of all kinds",
            "Do not remember 'Collects board games' in memory",
            "ask_to_forget",
            "forget",
            "board games",
            "Collects board games",
        ),
        Preference("Phone number", "Gave away 555-0100", "sensitive_info", "leaked", "555-0100"),
    ]
    several = chat("A draft, please.", "Which?", "Of the leaves from Assam.", "Here.", "Thanks!", "Gladly.")
    conversations = [
        Conversation(several, "chat_message", 0),
        Conversation(chat("My aunt walks at night.", "Nice."), "chat_message", 1),
        Conversation(chat("My route at noon.", "Here.", "And shoes?", "These."), "chat_message", 2, False),
        Conversation(chat("A game?", "One with a board.", "Forget my board games."), "knowledge_query", 3),
        Conversation(chat("Polish: call 555-0100.", "Done."), "personal_email", 4),
        Conversation(chat("A towel for the lake?", "Yes.", "Bye", "Bye"), "chat_message", 2, place="later"),
    ]
    record = PersonaRecord(Persona(0, {"short_persona": "A"}), preferences, conversations, [], {}, {})
    found = MemoryTargets(tuple(targets(record, conversations)), ())
    assert [(t.message, t.line) for t in found.notes] == [
        (5, "tea: Drinks Assam tea at dawn."),
        (7, "walks: Enjoys night walks, not the user's own."),
        (11, "running: Runs at noon."),
        (15, None),
        (18, "running: Swims in the lake."),
    ]
    # stored, a withdrawn line with a topic of more than three words would be dropped
    assert found.notes[3].written == "old board games of all kinds: Collects board games, forget it."
    assert line_of(record, conversations, "link")["withdrawn"] == ["board games"]
    named = replace(conversations[0], messages=several[:2] + chat("Assam tea?", "Yes.") + several[4:])
    assert targets(record, [named])[0].message == 3


@pytest.fixture(scope="module")
def middle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "data"
    settings = Settings("middle", 30, seed=0, tokenizer=str(tiny_checkpoint), history_tokens=9_000)
    simulate(settings, out)
    return out


def test_the_cold_start_of_the_memory_reads_the_middle_profile(middle: Path, tiny_checkpoint: Path) -> None:
    split = load_split(middle, "train")
    loaded = load_memory_targets(split)
    assert loaded.keys() == split.histories.keys() and (middle / MEMORY_TARGETS).is_file()
    agent = MemoryAgent(AutoTokenizer.from_pretrained(tiny_checkpoint), MemorySettings(2_000, 600))
    rows = list(sft_rows(split.questions, split, loaded, agent, answers_per_update=1.0))
    answers = [row for row in rows if row["turn"] < 0]
    gold = {question.id: question.gold for question in split.questions}
    correct = reward.personamem(
        [row["completion"] for row in answers], [gold[row["question_id"]] for row in answers]
    )
    assert correct == [1.0] * len(answers) and len(answers) > 50
    forgets = 0
    for before, after in zip(rows, rows[1:], strict=False):
        # what an update writes is stored as what the next one starts from
        if before["turn"] >= 0 and after["history_id"] == before["history_id"]:
            ids = agent.tokenizer(before["completion"])["input_ids"]
            assert agent.accept([*ids, 2], before["before"], [2]) == Update(after["before"])
            forgets += "forget it" in before["completion"]
    assert forgets > 10


def test_questions_of_the_middle_profile_find_their_line(middle: Path) -> None:
    every: list[MemoryTargets] = []
    for name in ("train", "val", "benchmark"):
        split = load_split(middle, name)
        loaded = load_memory_targets(split)
        every += loaded.values()
        for question in split.questions:
            raw = json.loads(
                (middle / f"data/raw_data/raw_data_persona{question.persona_id}.json").read_text()
            )
            (preference,) = (
                Preference(**p) for p in raw["preferences"] if p["topic"] == question.labels["topic"]
            )
            of = loaded[question.history_id]
            assert of.lines(10**6).get(about(question)) == expected(preference)
            withdrawn = previous_value(preference) in of.withdrawn
            assert withdrawn == (preference.kind in ("renewed", "forget"))
    # matched by its stem, a value may look like a word of another line: 3 of 474 over 300 personas
    present = [speaks_of(of.memory(10**6), phrase) for of in every for phrase in of.withdrawn]
    assert len(present) > 30 and sum(present) <= 0.05 * len(present)
