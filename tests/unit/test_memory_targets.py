"""Targets of the memory: true to what the chats say, from the side file or from labels, and never in a
prompt."""

import json
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from transformers import AutoTokenizer

import reward
from reward.judge import case_and_fact
from rft.errors import DataError, RecipeError
from rft.memory.agent import REWRITE, MemoryAgent, MemorySettings
from rft.memory.text import EMPTY, Update
from rft.simulate import writer_mini
from rft.tasks.load import load_split
from rft.tasks.memory_targets import MEMORY_TARGETS, MemoryTarget, MemoryTargets, about, load_memory_targets
from rft.toy.memory_exercises import memory_document
from rft.train.memory_rows import answer_target, memory_units, sft_rows
from rft.train.sft import LabelArguments

REAL = (
    Path("/nowhere")
    if not (here := Path(__file__).resolve().parents[3] / "shared/data/personamem_v2_sample").exists()
    else here
)


@pytest.fixture(scope="module")
def agent(tiny_checkpoint):
    return MemoryAgent(AutoTokenizer.from_pretrained(tiny_checkpoint), MemorySettings(160, 120))


def test_lines_change_in_place_and_can_go():
    told = (1, "x", "X."), (2, "y", "Y."), (4, "x", "Z."), (6, "y", None)
    notes = MemoryTargets(tuple(MemoryTarget(*each) for each in told), ())
    assert [notes.memory(i) for i in (0, 1, 3, 4, 6)] == ["", "- X.", "- X.\n- Y.", "- Z.\n- Y.", "- Z."]


@pytest.mark.parametrize("window", ["32k", "128k"])
def test_a_simulated_dataset_brings_its_notes(mini_data, window):
    split = load_split(mini_data, "train", window)
    notes = load_memory_targets(split)
    assert notes.keys() == split.histories.keys()
    for question in split.questions:
        of, whole = notes[question.history_id], split.history_of(question)
        held = of.lines(len(whole.messages))
        gold = question.options["abcd".index(question.gold)]
        line = held.get(about(question))
        if gold == writer_mini.GENERIC_OPTION:
            assert (
                line is None
                or line.endswith((", not the user's own.", ": forgotten."))
                or ": Gave up " in line
            )
        else:
            assert line.lower().endswith(f": enjoys {gold.lower()}")
        assert (question.labels["pref_type"] == "ask_to_forget") == any(
            phrase in about(question) for phrase in of.withdrawn
        )


def test_the_forget_split_withdraws_half(mini_data):
    split = load_split(mini_data, "forget")
    for of in load_memory_targets(split).values():
        assert len(of.withdrawn) == 4


def test_labels_serve_where_there_is_no_side_file(mini_data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(mini_data, folder)
    (folder / MEMORY_TARGETS).unlink()
    split = load_split(folder, "val")
    notes = load_memory_targets(split)
    for question in split.questions:
        of = notes[question.history_id]
        held = of.lines(len(split.history_of(question).messages))
        case, fact = case_and_fact(**question.labels)
        if case == "own":
            assert held[about(question)] == f"{fact}."
        else:
            assert about(question) not in held


@pytest.mark.skipif(not REAL.exists(), reason="the real sample is not on this machine")
def test_labels_of_the_real_sample_are_found_in_its_history():
    split = load_split(REAL, "benchmark")
    of = load_memory_targets(split)[split.questions[0].history_id]
    assert len(of.notes) >= 20
    assert len(of.withdrawn) >= 3
    assert of.memory(10_000).startswith("- ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not a valid record of memory targets"),
        ('{"history": "x", "notes": [], "withdrawn": []}', "no targets for"),
    ],
)
def test_a_broken_side_file_is_named(mini_data, tmp_path, line, said):
    folder = tmp_path / "data"
    shutil.copytree(mini_data, folder)
    (folder / MEMORY_TARGETS).write_text(line + "\n")
    with pytest.raises(DataError, match=said):
        load_memory_targets(load_split(folder, "val"))


def test_nothing_of_the_side_file_is_in_a_prompt(mini_data, agent):
    record = json.loads((mini_data / MEMORY_TARGETS).read_text().splitlines()[0])
    assert {"history", "notes", "withdrawn", "persona_id"} == set(record)
    split = load_split(mini_data, "train")
    of = next(iter(split.histories.values()))
    for chunk in agent.chunks(of):
        shown = agent.tokenizer.decode(agent.update_ids(chunk, ""))
        assert "Enjoys" not in shown and "forgotten" not in shown


def test_few_answers_are_of_every_kind(mini_data, agent):
    split = load_split(mini_data, "train")
    kind = {q.id: q.kind for q in split.questions}
    rows = sft_rows(split.questions, split, load_memory_targets(split), agent, answers_per_update=1.0)
    of_history: dict[str, list[str]] = {}
    for row in rows:
        if row["turn"] < 0:
            of_history.setdefault(row["history_id"], []).append(kind[row["question_id"]])
    # of eight questions, four of them of one kind
    assert {len(answers) for answers in of_history.values()} == {4, 5}
    for history_id, answers in of_history.items():
        kinds = {kind[question.id] for question in split.questions if question.history_id == history_id}
        assert len(set(answers)) == min(len(kinds), len(answers))


def test_cold_start_rows(mini_data, agent):
    split = load_split(mini_data, "train")
    rows = sft_rows(split.questions, split, load_memory_targets(split), agent, answers_per_update=0.25)
    answers = [row for row in rows if row["turn"] < 0]
    updates = Counter(row["history_id"] for row in rows if row["turn"] >= 0)
    assert 0.9 < len(answers) / (sum(updates.values()) / 4) < 1.1
    assert max(Counter(row["history_id"] for row in answers).values()) == 1  # none has five updates
    as_many = sft_rows(split.questions, split, load_memory_targets(split), agent)
    assert Counter(row["history_id"] for row in as_many if row["turn"] < 0) == updates
    assert len({row["question_id"] for row in answers}) == len(answers)
    gold = {question.id: question.gold for question in split.questions}
    assert reward.personamem(
        [row["completion"] for row in answers], [gold[row["question_id"]] for row in answers]
    ) == [1.0] * len(answers)
    for row in answers:  # what is recalled stands in the memory that the prompt holds
        recalled = row["completion"].removeprefix("<think>Remembered: ").split(". ")[0]
        assert f"- {recalled}." in row["before"].splitlines() or (
            recalled == "nothing that may be used" and "Something quite new" in row["completion"]
        )
    forgets = 0
    for before, after in zip(
        rows, list(rows)[1:], strict=False
    ):  # what an update should write becomes what the next should read
        if before["turn"] >= 0 and after["history_id"] == before["history_id"]:
            ids = agent.tokenizer(before["completion"])["input_ids"]
            assert agent.accept([*ids, 2], before["before"], [2]) == Update(after["before"])
            forgets += "forget it" in before["completion"]
    assert forgets > 10


def test_updates_that_tell_of_what_has_no_target_have_none(mini_data, agent):
    agent = MemoryAgent(agent.tokenizer, MemorySettings(chunk_tokens=60, memory_tokens=160))
    split, notes = load_split(mini_data, "train"), load_memory_targets(load_split(mini_data, "train"))
    plain = LabelArguments(hard_targets=0).labelled(split.questions)
    rows = [row for row in sft_rows(plain, split, notes, agent, answers_per_update=0.0)]
    every = [row for row in sft_rows(split.questions, split, notes, agent, answers_per_update=0.0)]
    assert len(every) / 4 < len(rows) < len(every)
    # those that are left are as they were: memories hold what earlier updates wrote
    assert all(row in every for row in rows)
    for row in rows:
        new = set(row["completion"].splitlines()) - set(row["before"].splitlines())
        assert not [
            line for line in new if "not the user's own" in line or "forget it" in line or "Gave up" in line
        ]
    taught = {"".join(set(row["completion"].splitlines()) - set(row["before"].splitlines())) for row in every}
    assert [line for line in taught if "forget it" in line]


def test_a_target_that_the_memory_does_not_hold_recalls_nothing(mini_data):
    question = load_split(mini_data, "val").questions[0]
    assert "Remembered: nothing that may be used." in answer_target(question, {})


def test_a_budget_below_the_targets_is_refused(mini_data, tiny_checkpoint):
    split = load_split(mini_data, "val")
    small = MemoryAgent(AutoTokenizer.from_pretrained(tiny_checkpoint), MemorySettings(160, 10))
    with pytest.raises(RecipeError, match="memory_tokens 10: the target memory of .* has"):
        sft_rows(split.questions, split, load_memory_targets(split), small)


def test_every_question_is_in_one_unit_of_one_history(mini_data):
    questions = load_split(mini_data, "train").questions
    units = memory_units(questions, 3, seed=0)
    assert sorted(name for unit in units for name in unit["question_ids"]) == sorted(
        question.id for question in questions
    )
    of = {question.id: question.history_id for question in questions}
    assert all({of[name] for name in unit["question_ids"]} == {unit["history_id"]} for unit in units)
    assert [len(unit["question_ids"]) for unit in units][:3] == [3, 3, 2]


def test_base_texts_rewrite_memories_without_a_question(mini_data):
    queries = {topic.ask for topic in writer_mini.TOPICS}
    rewritten = changed = 0
    for seed in range(300):
        messages = memory_document(Random(seed), seed / 300)
        text = "\n".join(message["content"] for message in messages)
        assert "boxed" not in text and "think" not in text and "(a)" not in text
        assert not any(query in text for query in queries)
        if REWRITE in messages[-2]["content"]:
            rewritten += 1
            before = messages[-2]["content"].split("user:\n")[-1]
            changed += before != messages[-1]["content"]
            assert messages[-1]["content"] == EMPTY or all(
                ": Enjoys " in line or line.endswith(": forgotten.")
                for line in messages[-1]["content"].splitlines()
            )
        else:
            assert all(m["content"].startswith("Remembered: ") for m in messages if m["role"] == "assistant")
    assert rewritten > 150 and changed > 100
    assert memory_document(Random(5), 0.5) == memory_document(Random(5), 0.5)
