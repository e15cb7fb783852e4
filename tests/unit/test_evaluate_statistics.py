"""Statistics of result rows: hand-computed cases, and intervals that cover what they claim to."""

import random

import numpy as np
import pytest
from result_rows import changed, result_row

from rft.evaluate import statistics
from rft.evaluate.interval import interval
from rft.evaluate.statistics import length_bucket, summarise
from rft.tasks.personamem.labels import distance_bucket


def row(i, persona, score, **labels):
    return result_row(
        i,
        score,
        persona,
        labels=labels,
        options=["some tea", "milk", "coffee!", "mate"],
        input_tokens=100 + i,
        output_tokens=10,
        seconds=0.5,
    )


def of_personas(scores):
    """Rows from {persona: [score, ...]}."""
    return [
        row(i, persona, score)
        for i, (persona, score) in enumerate((p, s) for p, all_ in scores.items() for s in all_)
    ]


def test_words_are_told_from_boxes():
    """Of four right boxes: one answer names its option, one another, one none; one thought names another."""
    rows = [
        changed(row(i, str(i), 1), completion=f"<think>{thought}</think>{words} \\boxed{{a}}")
        for i, (thought, words) in enumerate(
            [
                ("Some tea is (a).", "Some tea"),
                ("Some tea is (a).", "Milk"),
                ("Some tea.", ""),
                ("Milk is (b).", ""),
            ]
        )
    ]
    found = summarise(rows)
    assert (found.right, found.consistent, found.right_and_consistent) == (1.0, 0.5, 0.5)
    assert (found.thought_right, found.thought_letter_right, found.answer_right) == (0.75, 0.5, 0.25)
    low, high = found.right_and_consistent_ci95
    assert 0 <= low < 0.5 < high <= 1
    assert found.by["kind"]["plain"].right_and_consistent == 0.5
    rows[0] = changed(rows[0], completion=r"<think>Some tea.</think>\boxed{A.}")
    assert (summarise(rows).right, summarise(rows).right_leniently) == (0.75, 1.0)


def test_summary_of_four_rows_by_hand():
    rows = [
        row(0, "1", 1),
        row(1, "1", 0, who="others", updated=True, distance=0),
        row(2, "2", 1, pref_type="ask_to_forget", distance=127),
        row(3, "2", 0, scenario="translation", distance=None),
    ]
    rows[3] = changed(rows[3], completion="I cannot say", answered=None, finished=False)
    # the gold letter, but no reasoning: no reward
    rows[1] = changed(rows[1], completion="\\boxed{a}", answered="a")
    found = summarise(rows)
    assert found.accuracy == 0.5 and found.accuracy_without_gate == 0.75
    assert (found.n, found.personas) == (4, 2)
    assert found.unparsed_rate == 0.25 and found.format_rate == 0.5 and found.cut_off_rate == 0.25
    assert found.answer_letters == {"a": 3, "b": 0, "c": 0, "d": 0, "none": 1}
    assert found.input_tokens_per_question == 101.5 and found.output_tokens_per_question == 10
    assert found.seconds == 2.0
    shares = {name: {v: (c.accuracy, c.n) for v, c in table.items()} for name, table in found.by.items()}
    assert (found.right, found.right_and_consistent, found.consistent) == (0.75, 0.75, 1.0)
    assert found.most_common_answer.dump() == {"text": "", "share": 0.75} and found.thought_words == 0.5
    assert shares == {
        "kind": {"others": (0.0, 1), "plain": (0.5, 2), "withdrawn": (1.0, 1)},
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
    assert list(found.by["distance"]) == ["0", "1-127", "unknown"]


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


def pairs(rows):
    return [(row.persona_id, row.score) for row in rows]


def test_interval_of_four_personas_spans_them():
    # So few personas widen the percentiles beyond 1/256, the share of resamples that draw one persona only.
    rows = of_personas({"w": [1, 0, 0, 0], "x": [1, 1, 0, 0], "y": [1, 1, 1, 0], "z": [1, 1, 1, 1]})
    assert interval(pairs(rows)) == [0.25, 1.0]


def test_interval_agrees_with_resampling_in_a_loop():
    draw = random.Random(5)
    scores = {str(p): [int(draw.random() < 0.2 + p / 40) for _ in range(1 + 2 * (p % 6))] for p in range(24)}
    means = []
    for _ in range(20_000):
        people = draw.choices(list(scores), k=len(scores))
        means.append(sum(sum(scores[p]) for p in people) / sum(len(scores[p]) for p in people))
    # 24 personas: Phi(-sqrt(24/23) * 2.0687) = 0.0173
    expected = np.quantile(means, [0.0173, 1 - 0.0173])
    assert interval(pairs(of_personas(scores))) == pytest.approx(expected, abs=0.012)


def test_interval_is_seeded():
    rows = of_personas({str(p): [p % 2, p % 3 == 0, 1, p % 5 == 0] for p in range(30)})
    assert interval(pairs(rows), seed=1) == interval(pairs(rows), seed=1)


def test_all_right_or_all_wrong_is_not_certainty():
    right = of_personas({str(p): [1, 1] for p in range(10)})
    wrong = of_personas({str(p): [0, 0] for p in range(10)})
    assert interval(pairs(right)) == pytest.approx([0.025**0.1, 1.0])
    assert interval(pairs(wrong)) == pytest.approx([0.0, 1 - 0.025**0.1])
    assert interval(pairs(of_personas({"1": [1, 0, 1]}))) == [0.0, 1.0]


def test_interval_covers_the_truth(monkeypatch):
    """Personas differ (beta distributed), questions of one persona are alike: 95 % must mean 95 %."""
    monkeypatch.setattr("rft.evaluate.interval.RESAMPLES", 1000)
    draw = np.random.default_rng(0)
    truth, trials, covered = 0.4, 400, 0
    for trial in range(trials):
        skill_P = draw.beta(4, 6, size=20)
        scores = {str(p): draw.random(draw.integers(4, 13)) < skill for p, skill in enumerate(skill_P)}
        low, high = interval(pairs(of_personas(scores)), seed=trial)
        covered += low <= truth <= high
    assert 0.93 <= covered / trials <= 0.97


def many(question, said, gold="a", order=0, persona="1"):
    """A row for each sample of one question; "-" names no letter, "!a" names one without reasoning."""
    return [
        changed(
            row(i, persona, letter == gold),
            id=f"{question}/{order}/{i}",
            question=question,
            order=order,
            sample=i,
            gold=gold,
            answered=None if letter == "-" else letter[-1],
            completion=(
                "hm"
                if letter == "-"
                else "<think>So.</think>" * (letter[0] != "!") + f"\\boxed{{{letter[-1]}}}"
            ),
        )
        for i, letter in enumerate(said)
    ]


def test_mean_majority_and_pass_at_k_by_hand():
    rows = [
        *many("q1", ["a", "b", "a", "-"]),
        *many("q2", ["b", "b", "a", "c"]),
        *many("q3", ["!a", "!a", "-", "-"]),
    ]
    found = summarise(rows)
    assert found.n == 3 and found.asked == 12 and found.accuracy == 3 / 12
    samples = found.samples
    assert samples.count == 4 and samples.mean == 3 / 12
    assert samples.majority == 1 / 3  # q1; an answer without reasoning has no vote
    # q1: 2 of 4 right, q2: 1 of 4: pass@2 = 1 - C(2,2)/C(4,2), 1 - C(3,2)/C(4,2)
    assert samples.pass_at == pytest.approx({"1": 3 / 12, "2": (5 / 6 + 3 / 6) / 3, "4": 2 / 3})
    assert summarise(many("q1", ["a"])).samples is None


def test_orders_show_consistency_and_position_bias():
    options = ["tea", "milk", "mate", "cocoa"]

    def ask(question, choose):
        rows = []
        for order in range(4):
            shown = options[order:] + options[:order]
            gold = "abcd"[shown.index("milk")]
            said = choose(shown)
            rows += [changed(r, options=shown, sample=0) for r in many(question, [said], gold, order)]
        return rows

    knows = summarise(ask("q1", lambda shown: "abcd"[shown.index("milk")])).option_orders
    assert (knows.consistency, knows.position_bias, knows.count) == (1.0, 0.0, 4)
    assert knows.accuracy_at == {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
    first = summarise(ask("q1", lambda shown: "a") + ask("q2", lambda shown: "a"))
    assert (
        first.accuracy == 0.25
        and first.option_orders.consistency == 0
        and first.option_orders.position_bias == 0.75
    )
    assert first.option_orders.accuracy_at == {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}
    silent = summarise(ask("q1", lambda shown: "-")).option_orders
    assert silent.consistency == 0 and silent.position_bias is None


def test_controls_stand_beside_and_explain():
    long, short = ["the longest option", "mid", "mid2", "x"], ["m", "the longest option", "mid", "midd"]
    rows = [changed(row(i, str(i % 3), i < 6), options=long if i in (0, 1, 6) else short) for i in range(8)]
    blind = [changed(r, score=i in (1, 2, 7)) for i, r in enumerate(rows)]
    found = summarise(rows, blind=blind)
    shares = {name: (cell.accuracy, cell.explains) for name, cell in found.controls.items()}
    # right are 0-5; the longest option is gold in 0, 1, 6; the shortest in 2, 3, 4, 5, 7; blind is right in
    # 1, 2, 7 and the gold stands first in all of them
    assert shares == {
        "blind": (3 / 8, 2 / 6),
        "longest": (3 / 8, 2 / 6),
        "shortest": (5 / 8, 4 / 6),
        "strongest": (1.0, 1.0),
    }
    strongest = found.controls["strongest"]
    assert strongest.rule == "always a" and strongest.telling and strongest.ci95[1] == 1 and strongest.n == 8
    assert found.explained_by_shortcut == 1.0
    partly = summarise(rows, blind=blind[:4]).controls
    assert partly["blind"].n == 4 and partly["strongest"].n == 8
    assert summarise([row(0, "1", 0)]).explained_by_shortcut is None
    assert "blind" not in summarise(rows).controls


def test_controls_by_category_name_the_rule_that_is_strongest_there(monkeypatch):
    """Over all questions the generic option is gold in a quarter; about somebody else's preference always."""
    monkeypatch.setattr("rft.evaluate.interval.RESAMPLES", 500)
    draw, rows = random.Random(0), []
    for i in range(1200):
        others = i % 4 == 0
        options = [
            "quite novel",
            *(" ".join("".join(draw.choices("bcdfghklmn", k=5)) for _ in range(2)) for _ in range(3)),
        ]
        gold = options[0 if others else draw.randrange(1, 4)]
        draw.shuffle(options)
        asked = row(i, str(i // 8), i % 2, who="others" if others else "self")
        rows.append(changed(asked, options=options, gold="abcd"[options.index(gold)]))
    blind = [changed(r, score=r.labels["who"] == "others") for r in rows]
    controls = summarise(rows, blind=blind).controls
    assert not controls["strongest"].telling and controls["strongest"].accuracy < 0.29
    others, own = (controls["strongest"].by["who"][who] for who in ("others", "self"))
    assert (others.rule, others.accuracy, others.n, others.telling) == (
        "the most common option text",
        1.0,
        300,
        True,
    )
    assert own.telling and own.accuracy == pytest.approx(1 / 3, abs=0.04)
    assert own.ci95[0] < own.accuracy < own.ci95[1]
    assert controls["blind"].accuracy == 0.25 and controls["blind"].by["who"]["others"].accuracy == 1.0
    assert set(controls["strongest"].by) == set(statistics.breakdowns(rows))
    assert controls["strongest"].by["history_length"] == {}, "nobody knows it"


def test_what_is_not_scored_is_counted_and_not_wrong():
    def free(i, score, votes, answered="text"):
        return changed(row(i, str(i), 1), open_ended=True, votes=votes, answered=answered, score=score)

    rows = [free(i, 1.0, [True, True, False]) for i in range(3)]
    rows.append(free(3, None, [None, True, None]))
    rows.append(free(4, 0.0, [True, True, True], answered=None))
    found = summarise(rows)
    assert (found.accuracy, found.accuracy_without_gate, found.n, found.not_scored) == (3 / 4, 1.0, 4, 1)
    assert found.unparsed_rate == 1 / 5 and set(found.controls) == set()
    nothing = summarise([rows[3]])
    assert nothing.accuracy is None and nothing.ci95 is None and nothing.n == 0


def test_history_lengths_are_counted_in_tokens_of_four_characters():
    assert [length_bucket(n) for n in (0, 4095, 4096, 128_000, 10**7, None)] == [
        "0k-1k",
        "0k-1k",
        "1k-2k",
        "16k-32k",
        "128k+",
        "unknown",
    ]
    found = summarise(
        [changed(row(i, "1", 1), history_characters=n) for i, n in enumerate((10**6, 9000, 40_000))]
    )
    assert list(found.by["history_length"]) == ["2k-4k", "8k-16k", "128k+"]
