"""Comparisons: paired, over personas, by hand where it can be done by hand, refused where nothing can be
compared."""

import argparse
import itertools
import json

import numpy as np
import pytest
from result_rows import changed, result_row, summary_of

from rft.cli import main
from rft.errors import DataError
from rft.evaluate.comparison import add_arguments, compare, permutation_test, read_runs, run
from rft.evaluate.interval import interval_of_ratio
from rft.evaluate.statistics import summarise
from rft.records.summary import SweepPoint
from rft.report.evaluation import write_sweep_report

KINDS = ("neutral_preferences", "ask_to_forget")


def row(i, score, persona, **given):
    given.setdefault("labels", {"pref_type": KINDS[i % 2]})
    return result_row(i, score, persona, query=f"Query {i}?", history_characters=9000, **given)


def write(folder, rows, **about):
    folder.mkdir(parents=True)
    summary = summary_of(rows, model=folder.name, settings={}, **about)
    (folder / "summary.json").write_text(summary.to_text())
    (folder / "results.jsonl").write_text("".join(r.to_line() for r in rows))
    return folder


def command(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


def test_differences_by_hand(tmp_path):
    one = write(tmp_path / "one", [row(i, i in (0, 1), str(i // 2)) for i in range(8)])
    two = write(tmp_path / "two", [row(i, i in (1, 2, 3, 4), str(i // 2)) for i in range(8)])
    found = compare(read_runs([one, two]))
    cell = found.against["two"].all
    assert (cell.difference, cell.n, cell.personas, cell.better, cell.worse) == (0.25, 8, 4, 3, 1)
    assert (cell.first_accuracy, cell.accuracy) == (0.25, 0.5)
    assert found.against["two"].answers.dump() == {"same": 4, "n": 8}  # 1, 5, 6 and 7 alike
    # persona sums -1, 2, 1, 0: of the 8 sign patterns of the first three |sum| >= 2 in 6
    assert cell.p == 6 / 8
    kinds = found.against["two"].by["pref_type"]
    assert kinds["neutral_preferences"].difference == 0.25 and kinds["ask_to_forget"].n == 4
    assert compare(read_runs([two, one])).against["one"].all.difference == -0.25


def test_only_common_questions_count_and_samples_are_averaged(tmp_path):
    one = write(tmp_path / "one", [row(i, 1, str(i)) for i in range(6)])
    several = [
        row(i, s, str(i), id=f"benchmark-{i}/sample{s}", question=f"benchmark-{i}", sample=s)
        for i in range(4)
        for s in (0, 1)
    ]
    two = write(
        tmp_path / "two",
        [*several, row(9, 1, "9"), changed(row(1, 1, "1"), id="benchmark-1/sample2", score=None)],
    )
    cell = compare(read_runs([one, two])).against["two"].all
    assert (cell.n, cell.difference, cell.worse) == (4, -0.5, 4)


def test_permutation_test_is_exact_for_few_and_close_for_many():
    sums = np.array([2.0, -1.0, 3.0, 1.0, 0.0])
    flips = [
        abs(sum(s * x for s, x in zip(signs, sums, strict=True)))
        for signs in itertools.product((1, -1), repeat=5)
    ]
    assert permutation_test(sums) == sum(f >= 5 for f in flips) / 32
    assert permutation_test(np.zeros(7)) == 1.0
    assert permutation_test(np.ones(40)) == pytest.approx(1 / 10_001)
    draw = np.random.default_rng(0)
    null = [permutation_test(draw.integers(-2, 3, size=20).astype(float), seed) for seed in range(200)]
    assert 0.01 <= np.mean(np.array(null) <= 0.05) <= 0.1  # true to its level


def test_holm_correction_within_a_category(tmp_path):
    rows = [row(i, 0, str(i % 8)) for i in range(64)]
    better = [row(i, i % 2 == 0, str(i % 8)) for i in range(64)]
    found = compare(read_runs([write(tmp_path / "one", rows), write(tmp_path / "two", better)]))
    kinds = found.against["two"].by["pref_type"]
    assert kinds["neutral_preferences"].p_holm == pytest.approx(2 * kinds["neutral_preferences"].p)
    assert (
        kinds["ask_to_forget"].p_holm == 1.0
        and kinds["ask_to_forget"].ci95[0] < 0 < kinds["ask_to_forget"].ci95[1]
    )


def test_intervals_of_differences_cover_the_truth():
    draw = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        skill_P = draw.beta(4, 6, size=30)
        asked_P = draw.integers(4, 13, size=30)
        before_P, after_P = (
            draw.binomial(asked_P, skill_P),
            draw.binomial(asked_P, np.minimum(skill_P + 0.1, 1)),
        )
        low, high = interval_of_ratio((after_P - before_P).astype(float), asked_P, -1.0, 1.0, trial)
        covered += low <= 0.1 <= high
    assert 0.91 <= covered / 200 <= 0.99


def test_runs_that_agree_everywhere_are_not_certain():
    same = interval_of_ratio(np.zeros(10), np.full(10, 3), -1.0, 1.0)
    assert same == pytest.approx([-(1 - 0.025**0.1), 1 - 0.025**0.1])
    assert interval_of_ratio(np.zeros(1), np.ones(1), -1.0, 1.0) == [-1.0, 1.0]


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    rows = [row(i, 1, "1") for i in range(4)]
    one = write(tmp_path / "one", rows)
    other = write(tmp_path / "other", rows, data_sha256="def")
    with pytest.raises(
        DataError, match=r"one and other are runs on different data \(data_sha256: abc and def\)"
    ):
        read_runs([one, other])
    with pytest.raises(DataError, match="different data .window"):
        read_runs([one, write(tmp_path / "long", rows, window="128k")])
    free = [changed(r, open_ended=True, votes=[True] * 3) for r in rows]
    with pytest.raises(DataError, match="one is open-ended and one multiple choice"):
        read_runs([one, write(tmp_path / "free", free)])
    with pytest.raises(DataError, match="no scored question in common"):
        compare(read_runs([one, write(tmp_path / "rest", [row(7, 1, "1")])]))
    with pytest.raises(DataError, match="the same folder is given twice"):
        read_runs([one, one])
    with pytest.raises(DataError, match="two or more folders"):
        read_runs([one])
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match="empty/summary.json: no such file; expected the folder of a finished"
    ):
        read_runs([one, tmp_path / "empty"])
    assert main(["compare", str(one), str(other), "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.startswith("error: one and other")


def test_the_command_writes_a_page_and_says_what_it_found(tmp_path, capsys):
    one = write(tmp_path / "a" / "run", [row(i, i % 2, str(i % 5)) for i in range(20)])
    two = write(tmp_path / "b" / "run", [row(i, i % 5 > 0, str(i % 5)) for i in range(20)])
    assert command(one, two, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert (
        "b/run against a/run: +30.0 points (95 % interval" in said
        and "of 20 answers are the same word for word" in said
    )
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["first"] == "a/run" and set(found["runs"]) == {"a/run", "b/run"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "+30.0 points" in page and "Questions with different scores" in page and page.count("<svg") == 3
    moved = json.loads(page.split('id="questions">')[1].split("</script>")[0])
    assert len(moved) == sum((i % 2) != (i % 5 > 0) for i in range(20)) and {
        a["run"] for a in moved[0]["answers"]
    } == {"a/run", "b/run"}


def test_distances_stand_from_near_to_far_on_the_page(tmp_path):
    far = (0, 700, 50, 3000, 300)
    rows = [row(i, i % 2, str(i % 4), labels={"distance": far[i % 5]}) for i in range(20)]
    others = [changed(r, score=i % 3 > 0) for i, r in enumerate(rows)]
    runs = write(tmp_path / "a", rows), write(tmp_path / "b", others)
    assert command(*runs, "--out", tmp_path / "out") == 0
    table = (tmp_path / "out" / "report.html").read_text().split("Tokens since it was mentioned")[-1]
    places = [
        table.index(f"<td>{value}</td>") for value in ("0", "1-127", "128-511", "512-2047", "2048-8191")
    ]
    assert places == sorted(places)


def test_a_sweep_draws_its_curve(tmp_path):
    points = [
        SweepPoint.model_validate(
            summarise([row(i, i < n, str(i % 4)) for i in range(10)]).dump()
            | {"checkpoint": f"out/checkpoint-{step}", "folder": f"checkpoint-{step}", "step": step}
        )
        for step, n in ((10, 3), (20, 8), (30, 6))
    ]
    write_sweep_report(points, tmp_path / "report.html", 0.25)
    page = (tmp_path / "report.html").read_text()
    assert (
        "80.0\N{NO-BREAK SPACE}% right at best: checkpoint-20" in page
        and page.count("<svg") == 2
        and "<script" not in page
    )
