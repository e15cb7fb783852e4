"""Mini personas: the same for the same seed, answerable only from the history, with nothing told by form."""

import csv
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from rft.errors import DataError
from rft.simulate import writer_mini
from rft.simulate.persona_record import USED_KINDS
from rft.simulate.pipeline import offline_writer, simulate
from rft.simulate.profile import PROFILES, Settings
from rft.tasks.load import load_split
from rft.tasks.memory_targets import load_memory_targets
from rft.tasks.personamem.dataset import COLUMNS

PUBLISHED = {
    "benchmark/text/benchmark.csv": "c2a52c051ddd150b",
    "benchmark/text/forget.csv": "4a0ebfb1afbac623",
    "benchmark/text/train.csv": "b38a2d8e12bc3c5c",
    "benchmark/text/val.csv": "6ae19b177527fb6c",
    "memory_targets.jsonl": "c935983fc2c96a49",
    "data/chat_history_128k": "730fcfde4868797f",
    "data/chat_history_32k": "55be923f406437c2",
}


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)
    ).hexdigest()


def category(kind: str) -> str:
    return next(name for name, kinds in writer_mini.ENDINGS.items() if kind in kinds)


def test_values_are_single_words_of_one_topic():
    values = [value for topic in writer_mini.TOPICS for value in topic.values]
    assert len(set(values)) == len(values)
    assert all(" " not in value for value in values)
    words = {word for topic in writer_mini.TOPICS for word in re.findall(r"\w+", topic.ask)}
    assert not words & set(values)


def test_the_data_is_that_of_the_published_results(mini_data):
    """Thirty personas of seed 0, as every earlier version wrote them: checkpoints and figures depend on
    it."""
    record = json.loads((mini_data / "simulation.json").read_text())
    assert {name: sha256[:16] for name, sha256 in record["sha256"].items()} == PUBLISHED


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(tmp_path):
    for name, seed, workers in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        simulate(Settings("mini", 6, seed), tmp_path / name, workers)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_one_window_alone_is_as_beside_the_other(mini_data, tmp_path):
    simulate(Settings("mini", 30, 0, windows=("32k",)), tmp_path / "data")
    assert not (tmp_path / "data/data/chat_history_128k").exists()
    for path in (mini_data / "data/chat_history_32k").iterdir():
        assert (tmp_path / "data/data/chat_history_32k" / path.name).read_bytes() == path.read_bytes()
    split, both = load_split(tmp_path / "data", "val"), load_split(mini_data, "val")
    assert split.questions == both.questions
    assert load_memory_targets(split) == load_memory_targets(both)


def test_the_columns_are_the_official_ones(mini_data):
    assert len(COLUMNS) == 27
    with open(mini_data / "benchmark/text/train.csv", encoding="utf-8") as file:
        assert tuple(next(csv.reader(file))) == COLUMNS


def test_splits_are_by_persona():
    splits = Settings("middle", 100, seed=3).splits()
    assert sorted(sum(splits.values(), [])) == list(range(100))
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 85, "val": 5, "benchmark": 10}
    assert Settings("mini", 100, seed=3).splits() == {**splits, "forget": [100, 101, 102, 103, 104]}


def test_our_own_reader_takes_every_row(mini_data):
    for name in ("train", "val", "benchmark"):
        split = load_split(mini_data, name)
        assert not split.skipped
        assert {q.labels["pref_type"] for q in split.questions} <= {
            "neutral_preferences",
            "ask_to_forget",
            "health_and_medical_conditions",
        }
        for question in split.questions:
            question.check()


def test_the_card_and_the_audit(mini_data):
    record, card = (
        json.loads((mini_data / "simulation.json").read_text()),
        (mini_data / "README.md").read_text(),
    )
    assert list(record["audit"]) == ["train", "val", "benchmark", "forget"]
    assert all(audit["evidence"] == 1 and audit["personal_items"] == 0 for audit in record["audit"].values())
    assert "counted over the message contents: words and punctuation marks." in card
    assert "split: forget, path: benchmark/text/forget.csv" in card


def test_the_generic_option_is_gold_for_a_quarter_of_every_category():
    """Over 1,500 personas, within three standard errors; 4 of 4 categories have both ends."""
    generic: dict[str, list[bool]] = {}
    writer = offline_writer(Settings("mini", 1500, seed=7))
    for persona_id in range(1500):
        record = writer.write(persona_id)
        used = [preference.kind in USED_KINDS for preference in record.preferences]
        assert used.count(False) == 2
        for preference, holds in zip(record.preferences, used, strict=True):
            generic.setdefault(category(preference.kind), []).append(not holds)
        for item in record.items:
            assert (item.gold == writer_mini.GENERIC_OPTION) == (not used[item.about])
    assert set(generic) == set(writer_mini.ENDINGS)
    for name, found in generic.items():
        assert abs(sum(found) / len(found) - 0.25) < 3 * (0.25 * 0.75 / len(found)) ** 0.5, name


def test_labels_say_what_a_question_is_about(mini_data):
    kinds = {q.kind for q in load_split(mini_data, "train").questions}
    assert kinds == {"plain", "changed", "withdrawn", "others"}
    for question in load_split(mini_data, "train").questions:
        labels, gold = question.labels, question.options["abcd".index(question.gold)]
        if question.kind in ("withdrawn", "others") and labels["preference"]:
            named = labels["prev_pref"] or labels["preference"]
            # what may not be used is never gold
            assert named.removeprefix("Enjoys ").lower() not in gold.lower()


def test_what_holds_at_the_end_of_a_history_is_gold(mini_data):
    """Answered by reading: the last own value of the topic that was not withdrawn, else the generic
    option."""
    split = load_split(mini_data, "train")
    for question in split.questions:
        topic = next(t for t in writer_mini.TOPICS if t.ask == question.query)
        held = None
        for message in split.history_of(question).turns:
            text = message.content
            named = [v for v in topic.values if topic.with_value(v) in text]
            if message.role != "user" or not named or ", not " in text:
                continue
            forgets = ", forget " in text or "nothing else" in text or "for good" in text
            new = next(
                (
                    v
                    for v in named
                    if f"always {topic.with_value(v)}" in text
                    or f"these days I am {topic.with_value(v)}" in text
                ),
                named[0],
            )
            held = None if forgets else new
        expected = writer_mini.option(topic.with_value(held)) if held else writer_mini.GENERIC_OPTION
        assert question.options["abcd".index(question.gold)] == expected


def test_no_rule_that_does_not_read_beats_chance():
    """Over 1,000 personas: longest, shortest, a letter, and the generic option each within 2.5 points of a
    quarter."""
    hits: Counter[str] = Counter()
    total = 0
    writer = offline_writer(Settings("mini", 1000, seed=5))
    for persona_id in range(1000):
        for item in writer.write(persona_id).items:
            lengths = sorted([len(item.gold), *map(len, item.distractors)])
            hits["longest"] += (len(item.gold) == lengths[-1]) / lengths.count(lengths[-1])
            hits["shortest"] += (len(item.gold) == lengths[0]) / lengths.count(lengths[0])
            hits["generic"] += item.gold == writer_mini.GENERIC_OPTION
            total += 1
    assert {
        rule: round(count / total, 2) for rule, count in hits.items() if abs(count / total - 0.25) > 0.025
    } == {}


def test_an_update_or_a_request_to_forget_comes_after_its_original():
    writer = offline_writer(Settings("mini", 200, seed=0))
    for persona_id in range(200):
        record = writer.write(persona_id)
        for about, preference in enumerate(record.preferences):
            story = [c for c in record.conversations if c.about == about]
            later = [c for c in story if c.place == "later"]
            assert len(later) == {"update": 1, "ended": 1, "forget": 1, "renewed": 2}.get(preference.kind, 0)
            assert later == story[len(story) - len(later) :]
            assert sum(c.evidence for c in story) == 1


def test_personas_of_the_forget_split_have_its_questions():
    profile, writer = PROFILES["mini"], offline_writer(Settings("mini", 10, seed=0))
    for persona_id, counts in ((9, profile.counts), (10, profile.forget)):
        kinds = Counter(category(preference.kind) for preference in writer.write(persona_id).preferences)
        assert kinds == counts


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DataError, match="contains something else; nothing was changed"):
        simulate(Settings("mini", 5, seed=0), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(DataError, match="3 or more"):
        simulate(Settings("mini", 2, seed=0), tmp_path / "new")


def test_an_interrupted_simulation_leaves_nothing_that_looks_whole_and_goes_on(
    tmp_path, mini_data, monkeypatch
):
    written = []

    def full(path, content, durable=False):
        written.append(path)
        if len(written) == 20:
            raise OSError(28, "No space left on device")
        write_atomic(path, content, durable)

    from rft.simulate.pipeline import write_atomic

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr("rft.simulate.pipeline.write_atomic", full)
        simulate(Settings("mini", 30, seed=0), tmp_path / "data")
    assert not (tmp_path / "data").exists() and list(tmp_path.glob(".data.partial/rows/*.json"))
    simulate(Settings("mini", 30, seed=0), tmp_path / "data")
    assert digest(tmp_path / "data") == digest(mini_data)
