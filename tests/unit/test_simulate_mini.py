"""Mini personas: the same for the same seed, answerable only from the history, with nothing told by form."""

import csv
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from rft.data.dataset import COLUMNS, load_split
from rft.errors import DataError
from rft.simulate import mini, mini_vocabulary
from rft.simulate.dataset import simulate_mini, split_personas


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)
    ).hexdigest()


def test_values_are_single_words_of_one_topic():
    values = [value for topic in mini_vocabulary.TOPICS for value in topic.values]
    assert len(set(values)) == len(values)
    assert all(" " not in value for value in values)
    words = {word for topic in mini_vocabulary.TOPICS for word in re.findall(r"\w+", topic.query)}
    assert not words & set(values)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate_mini(tmp_path / name, personas=6, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_the_columns_are_the_official_ones(mini_data):
    assert len(COLUMNS) == 27
    with open(mini_data / "benchmark/text/train.csv", encoding="utf-8") as file:
        assert tuple(next(csv.reader(file))) == COLUMNS


def test_splits_are_by_persona():
    splits = split_personas(100, seed=3)
    assert sorted(sum(splits.values(), [])) == list(range(100))
    assert {name: len(ids) for name, ids in splits.items()} == {"benchmark": 10, "val": 5, "train": 85}


def test_our_own_reader_takes_every_row(mini_data):
    for name in ("train", "val", "benchmark"):
        split = load_split(mini_data, name)
        assert not split.skipped
        assert {q.labels.pref_type for q in split.questions} <= {
            "neutral_preferences",
            "ask_to_forget",
            "health_and_medical_conditions",
        }
        for question in split.questions:
            question.check()


def test_the_generic_option_is_gold_for_a_quarter_of_every_category():
    """Over 1,500 personas, within three standard errors; 4 of 4 categories have both ends."""
    generic: dict[str, list[bool]] = {}
    for persona_id in range(1500):
        persona = mini.make_persona(7, persona_id)
        assert sum(fact.value is None for fact in persona.facts) == 2
        for fact in persona.facts:
            category = next(name for name, kinds in mini.STORIES.items() if fact.kind in kinds)
            generic.setdefault(category, []).append(fact.value is None)
    assert set(generic) == set(mini.STORIES)
    for category, found in generic.items():
        assert abs(sum(found) / len(found) - 0.25) < 3 * (0.25 * 0.75 / len(found)) ** 0.5, category


def test_labels_say_what_a_question_is_about(mini_data):
    kinds = {q.labels.kind for q in load_split(mini_data, "train").questions}
    assert kinds == {"plain", "changed", "withdrawn", "others"}
    for question in load_split(mini_data, "train").questions:
        labels, gold = question.labels, question.options["abcd".index(question.gold)]
        if labels.kind in ("withdrawn", "others") and labels.preference:
            named = labels.prev_pref or labels.preference
            # what may not be used is never gold
            assert named.removeprefix("Enjoys ").lower() not in gold.lower()


def test_what_holds_at_the_end_of_a_history_is_gold(mini_data):
    """Answered by reading: the last own value of the topic that was not withdrawn, else the generic
    option."""
    split = load_split(mini_data, "train")
    for question in split.questions:
        topic = next(t for t in mini_vocabulary.TOPICS if t.query == question.query)
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
        expected = mini_vocabulary.option(topic.with_value(held)) if held else mini_vocabulary.GENERIC_OPTION
        assert question.options["abcd".index(question.gold)] == expected


def test_no_rule_that_does_not_read_beats_chance():
    """Over 1,000 personas: longest, shortest, a letter, and the generic option each within 2.5 points of a
    quarter."""
    from random import Random

    hits: Counter[str] = Counter()
    total = 0
    for persona_id in range(1000):
        persona = mini.make_persona(5, persona_id)
        for fact in persona.facts:
            gold, wrong = mini.options(Random(persona_id), fact)
            lengths = sorted([len(gold), *map(len, wrong)])
            hits["longest"] += (len(gold) == lengths[-1]) / lengths.count(lengths[-1])
            hits["shortest"] += (len(gold) == lengths[0]) / lengths.count(lengths[0])
            hits["generic"] += gold == mini_vocabulary.GENERIC_OPTION
            total += 1
    assert {
        rule: round(count / total, 2) for rule, count in hits.items() if abs(count / total - 0.25) > 0.025
    } == {}


def test_an_update_or_a_request_to_forget_comes_after_its_original():
    for persona_id in range(200):
        persona = mini.make_persona(0, persona_id)
        for fact in persona.facts:
            places = [i for i, block in enumerate(persona.blocks) if block.fact is fact]
            after = [i for i in places if persona.blocks[i].after]
            assert len(after) == {"update": 1, "ended": 1, "forget": 1, "retold": 2}.get(fact.kind, 0)
            assert after == sorted(places)[len(places) - len(after) :]
            assert sum(persona.blocks[i].telling for i in places) == 1


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DataError, match="not an empty folder"):
        simulate_mini(tmp_path, personas=5, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(DataError, match="3 or more"):
        simulate_mini(tmp_path / "new", personas=2, seed=0)


def test_an_interrupted_simulation_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(
        json, "dumps", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        simulate_mini(tmp_path / "data", personas=5, seed=0)
    assert not (tmp_path / "data").exists()
