"""Statistics of result rows: hand-computed cases, and intervals that cover what they claim to."""

import random

import numpy as np
import pytest

from rft.evaluate import statistics
from rft.evaluate.statistics import distance_bucket, interval, summarise, t_quantile


def row(i, persona, score, **labels):
    known = {
        "pref_type": "neutral_preferences",
        "who": "self",
        "updated": False,
        "scenario": "chat",
        "distance": 5,
    }
    completion = f"<think>Hm.</think>\\boxed{{{'a' if score else 'b'}}}"
    return {
        "id": f"benchmark-{i}", "persona_id": persona, "labels": known | labels, "gold": "a",
        "options": ["some tea", "milk", "coffee!", "mate"], "answered": "a" if score else "b", "score": float(score), "completion": completion, "finished": True,
        "input_tokens": 100 + i, "output_tokens": 10, "seconds": 0.5,
    }  # fmt: skip


def of_personas(scores):
    """Rows from {persona: [score, ...]}."""
    return [
        row(i, persona, score)
        for i, (persona, score) in enumerate((p, s) for p, all_ in scores.items() for s in all_)
    ]


def test_summary_of_four_rows_by_hand():
    rows = [
        row(0, "1", 1),
        row(1, "1", 0, who="others", updated=True, distance=0),
        row(2, "2", 1, pref_type="ask_to_forget", distance=127),
        row(3, "2", 0, scenario="translation", distance=None),
    ]
    rows[3] |= {"completion": "I cannot say", "answered": None, "finished": False}
    rows[1] |= {"completion": "\\boxed{a}", "answered": "a"}  # the gold letter, but no reasoning: no reward
    found = summarise(rows)
    assert found["accuracy"] == 0.5 and found["accuracy_without_gate"] == 0.75
    assert (found["n"], found["personas"]) == (4, 2)
    assert found["unparsed_rate"] == 0.25 and found["format_rate"] == 0.5 and found["cut_off_rate"] == 0.25
    assert found["answer_letters"] == {"a": 3, "b": 0, "c": 0, "d": 0, "none": 1}
    assert found["input_tokens_per_question"] == 101.5 and found["output_tokens_per_question"] == 10
    assert found["seconds"] == 2.0
    shares = {
        name: {v: (c["accuracy"], c["n"]) for v, c in table.items()} for name, table in found["by"].items()
    }
    assert shares == {
        "pref_type": {"ask_to_forget": (1.0, 1), "neutral_preferences": (1 / 3, 3)},
        "who": {"others": (0.0, 1), "self": (2 / 3, 3)},
        "updated": {"false": (2 / 3, 3), "true": (0.0, 1)},
        "scenario": {"chat": (2 / 3, 3), "translation": (0.0, 1)},
        "distance": {"0": (0.0, 1), "1-127": (1.0, 2), "unknown": (0.0, 1)},
        "pref_type_who": {
            "ask_to_forget, self": (1.0, 1),
            "neutral_preferences, others": (0.0, 1),
            "neutral_preferences, self": (0.5, 2),
        },
        "history_length": {"unknown": (0.5, 4)},
    }
    assert list(found["by"]["distance"]) == ["0", "1-127", "unknown"]


def test_order_of_rows_does_not_matter():
    rows = of_personas({str(p): [p % 2, p % 3 == 0, 1] for p in range(9)})
    shuffled = random.Random(0).sample(rows, len(rows))
    assert summarise(rows, seed=3) == summarise(shuffled, seed=3)


def test_distance_buckets():
    known = {
        0: "0",
        1: "1-127",
        127: "1-127",
        128: "128-511",
        2047: "512-2047",
        2048: "2048-8191",
        32768: "32768+",
    }
    assert {d: distance_bucket(d) for d in known} == known
    assert distance_bucket(10**9) == "32768+" and distance_bucket(None) == distance_bucket(-1) == "unknown"


def test_quantiles_of_students_t():
    for degrees, quantile in {1: 12.7062, 2: 4.3027, 5: 2.5706, 30: 2.0423, 199: 1.9720}.items():
        assert t_quantile(0.975, degrees) == pytest.approx(quantile, abs=1e-4)


def test_interval_of_four_personas_spans_them():
    # So few personas widen the percentiles beyond 1/256, the share of resamples that draw one persona only.
    rows = of_personas({"w": [1, 0, 0, 0], "x": [1, 1, 0, 0], "y": [1, 1, 1, 0], "z": [1, 1, 1, 1]})
    assert interval(rows) == [0.25, 1.0]


def test_interval_agrees_with_resampling_in_a_loop():
    draw = random.Random(5)
    scores = {str(p): [int(draw.random() < 0.2 + p / 40) for _ in range(1 + 2 * (p % 6))] for p in range(24)}
    means = []
    for _ in range(20_000):
        people = draw.choices(list(scores), k=len(scores))
        means.append(sum(sum(scores[p]) for p in people) / sum(len(scores[p]) for p in people))
    # 24 personas: Phi(-sqrt(24/23) * 2.0687) = 0.0173
    expected = np.quantile(means, [0.0173, 1 - 0.0173])
    assert interval(of_personas(scores)) == pytest.approx(expected, abs=0.012)


def test_interval_is_seeded():
    rows = of_personas({str(p): [p % 2, p % 3 == 0, 1, p % 5 == 0] for p in range(30)})
    assert interval(rows, seed=1) == interval(rows, seed=1)


def test_all_right_or_all_wrong_is_not_certainty():
    right = of_personas({str(p): [1, 1] for p in range(10)})
    wrong = of_personas({str(p): [0, 0] for p in range(10)})
    assert interval(right) == pytest.approx([0.025**0.1, 1.0])
    assert interval(wrong) == pytest.approx([0.0, 1 - 0.025**0.1])
    assert interval(of_personas({"1": [1, 0, 1]})) == [0.0, 1.0]


def test_interval_covers_the_truth(monkeypatch):
    """Personas differ (beta distributed), questions of one persona are alike: 95 % must mean 95 %."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    draw = np.random.default_rng(0)
    truth, trials, covered = 0.4, 400, 0
    for trial in range(trials):
        skill_P = draw.beta(4, 6, size=20)
        scores = {str(p): draw.random(draw.integers(4, 13)) < skill for p, skill in enumerate(skill_P)}
        low, high = interval(of_personas(scores), seed=trial)
        covered += low <= truth <= high
    assert 0.93 <= covered / trials <= 0.97
