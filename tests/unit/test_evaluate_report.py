"""The reports: self-contained, escaped, and true to the numbers."""

import base64
import hashlib
import html.parser
import json
import random
import re

import pytest
from result_rows import changed, result_row, summary_of

from rft.errors import DataError
from rft.evaluate.skill import lines
from rft.evaluate.statistics import summarise
from rft.records.summary import Measure
from rft.report import charts
from rft.report.evaluation import cards, pairs, write_evaluation_report, write_quickstart_report
from rft.report.pages import columns
from rft.report.sentences import learned

EVIL = "</pre><script>alert('x')</script>&lt;$y_1$"


def row(i, score, kind="neutral_preferences", persona=None, said="I think so.", **given):
    completion = f"<think>{said}</think>\\boxed{{{'a' if score else 'b'}}}"
    known = {"query": f"Query {i}?", "labels": {"pref_type": kind}, "completion": completion}
    return result_row(i, score, persona or str(i % 5), **known | given)


class Page(html.parser.HTMLParser):
    """What a browser would act on: tags, the addresses they point to, and their text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.addresses, self.text, self.charts = [], [], "", 0
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.charts += ("role", "img") in attributes
        self.addresses += [
            value for name, value in attributes if name in ("src", "href", "xlink:href", "action")
        ]
        assert not [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        if not self.tags or self.tags[-1] not in ("style", "script"):
            for part in re.findall(r"[^\xa0]*\d [%]", data):
                raise AssertionError(f"a percent sign that may stand on the next line: {part}")
        self.text += data.replace("\xa0", " ")


def told(summaries):
    return [sentence.replace("\xa0", " ") for sentence in learned(summaries)]


def check_self_contained(page):
    assert not {"iframe", "object", "img", "form"} & set(page.tags)
    # none, or the browser's data and the one script its policy allows
    assert page.tags.count("script") in (0, 2)
    for script in re.findall(r"<script>(.*?)</script>", page.source, re.S):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in page.source
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert re.findall(r"url\((?!#)|@import", page.source) == []


def test_evaluation_report_shows_the_numbers(tmp_path):
    rows = [row(i, i % 4 != 0, "ask_to_forget" if i % 2 else "neutral_preferences") for i in range(20)]
    write_evaluation_report(summary_of(rows), rows, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    check_self_contained(page)
    assert "75.0 % right and consistent" in page.text and "5 personas and 20 of 100 questions" in page.text
    assert "ask to forget (10)" in page.text.replace("\n", " ") and "100.0 %" in page.text
    assert page.charts == 1 + 7  # the controls; the categories but for the cross of kind and whose
    # three wrong, three right to read, and all in the browser's data
    assert page.text.count("Query ") == 6 + 20
    assert "published, not measured here" in page.text and "always the longest option" in page.text


@pytest.mark.parametrize(("count", "shown"), [(250, False), (100, True)])
def test_boxes_of_another_form_are_pointed_out_if_they_matter(tmp_path, count, shown):
    """One answer in `count` has its letter in a box that only the lenient reading takes."""
    rows = [row(i, 1) for i in range(count)]
    said = r"<think>I think so.</think>\boxed{A.}"
    rows[0] = changed(rows[0], completion=said, answered=None, score=0.0)
    summary = summary_of(rows)
    write_evaluation_report(summary, rows, tmp_path / "report.html")
    page = Page(tmp_path / "report.html").text
    assert ("in 99.0 % under strict reading, and in 100.0 % if boxes of other forms" in page) == shown
    assert (
        lines(summary)[-1].startswith("Box format costs 1.0 points: boxes such as \\boxed{B.} or")
    ) == shown
    assert any(
        line.startswith("the box is right, in other forms too") and line.endswith("100.0 %")
        for line in lines(summary)
    )


def test_text_from_data_stays_text(tmp_path):
    labels = {"pref_type": EVIL, "preference": EVIL, "scenario": EVIL, "who": EVIL}
    evil = {"query": EVIL, "options": [EVIL] * 4, "labels": labels, "persona": EVIL, "said": EVIL}
    rows = [row(i, i % 2, id=f"{EVIL}{i}", **evil) for i in range(4)]
    summary = summary_of(rows, model=EVIL)
    write_evaluation_report(summary, rows, tmp_path / "one.html")
    write_quickstart_report(
        tmp_path / "two.html",
        summaries={"sft": summary, "grpo": summary},
        curves={EVIL: [(0, 0.1), (1, 0.2)]},
        transcripts=[(rows[0], rows[1])],
        seconds={EVIL: 1.0},
    )
    for name in ("one.html", "two.html"):
        page = Page(tmp_path / name)
        check_self_contained(page)
        assert EVIL in page.text and "<script>alert" not in page.source
    [block] = re.findall(r'id="questions">(.*?)</script>', (tmp_path / "one.html").read_text(), re.S)
    assert not set("<>&") & set(block) and json.loads(block)[0]["query"] == EVIL


def test_a_long_or_empty_completion_is_shown_short(tmp_path):
    rows = [row(0, 0, said="so " * 400_000), row(1, 0, completion="", answered=None, finished=False)]
    write_evaluation_report(summary_of(rows), rows, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert len(page.source) < 100_000
    assert re.search(r"… and 1,19\d,\d\d\d more characters", page.text)
    assert "(an empty completion)" in page.text and "no readable answer, cut off" in page.text


def test_quickstart_report_compares_the_runs(tmp_path):
    before, after = [row(i, i % 2) for i in range(20)], [row(i, i != 7) for i in range(20)]
    blind = [row(i, i % 4 == 0) for i in range(20)]
    write_quickstart_report(
        tmp_path / "report.html",
        summaries={"blind": summary_of(blind), "sft": summary_of(before), "grpo": summary_of(after)},
        curves={
            "GRPO reward": [(i, i / 100) for i in range(100)],
            "loss": [(i, 9.0 - i) for i in range(5)],
            "none": [],
        },
        transcripts=pairs(before, after),
        seconds={"sft": 61.0, "grpo": 3700.0},
    )
    page = Page(tmp_path / "report.html")
    check_self_contained(page)
    assert "95.0 % right and consistent on held-out personas" in page.text
    assert page.charts == 1 + 2 + 3  # all runs, two curves, three categories
    for words in ("after GRPO", "cold start (SFT)", "without history", "1 min 1 s", "1 h 1 min", "1 h 2 min"):
        assert words in page.text
    assert "longest option" not in page.text  # a run that was not made is not shown


def test_pairs_are_mostly_gains_and_never_hide_a_failure():
    before = [row(i, i % 3 == 0, "ask_to_forget" if i % 2 else "neutral_preferences") for i in range(30)]
    after = [row(i, i not in (4, 9), "ask_to_forget" if i % 2 else "neutral_preferences") for i in range(30)]
    chosen = pairs(before, after)
    assert len(chosen) == 6 and all(a.id == b.id for a, b in chosen)
    assert [(a.score, b.score) for a, b in chosen[:5]] == [(0, 1)] * 5
    assert chosen[5][1].score == 0
    assert {b.labels["pref_type"] for _, b in chosen} == {"ask_to_forget", "neutral_preferences"}
    assert len({b.persona_id for _, b in chosen[:4]}) == 4
    assert len(pairs(after, after)) == 6 and pairs([], after) == []


def test_learned_says_what_the_numbers_say():
    half = summary_of([row(i, i % 2) for i in range(40)])
    most = summary_of(
        [row(i, i % 10 > 0, "ask_to_forget" if i < 20 else "neutral_preferences") for i in range(40)]
    )
    chance = summary_of([row(i, i % 4 == 0) for i in range(40)])
    longest = summary_of([row(i, i % 10 > 3) for i in range(40)])
    said = told({"sft": half, "grpo": most, "blind": chance, "longest_option": longest})
    assert (
        "answers went from 50.0 % to 90.0 % (+40.0 points) on 40 questions about 5 held-out personas"
        in said[0]
    )
    assert (
        said[1]
        == "The thought names the gold option in 0.0 % of the answers (before GRPO: 0.0 %); words and box"
        " agree in 100.0 % (before: 100.0 %)."
    )
    assert (
        "25.0 %" in said[2]
        and "no better than guessing, overall; no category has the 300 questions" in said[2]
    )
    assert "its knowledge" not in said[2], "nothing follows for a category that is too small to judge"
    assert "60.0 %" in said[3] and "more than guessing" in said[3]
    assert (
        "Of 17 rules" in said[4]
        and "(shortest option) gets 100.0 %" in said[4]
        and "score needs no history" in said[4]
    )
    assert "(-40.0 points)" in told({"sft": most, "grpo": half})[0]


def test_what_is_said_of_a_memory_is_what_is_written_and_read():
    of_half, of_most = ([row(i, i % 2 if i < n else 1) for i in range(40)] for n in (40, 20))
    forgotten = {"withdrawn": 6, "written": 6, "gone": 3, "rate": 0.5, "kept": []}
    lines = [
        {
            "targets": 300,
            "right": 300 * x,
            "wrong": 0,
            "missing": 0,
            "extra": 0,
            "right_rate": x,
            "ci95": [x - 0.1, x + 0.1],
            "by": {},
            "memories": 40,
        }
        for x in (0.5, 0.7)
    ]
    reader = {"model": "sft"} | summarise(of_half).dump()
    summaries = {
        "sft": summary_of(of_half),
        "grpo": summary_of(of_most, input_tokens_per_question=640.0),
        "memory_sft": summary_of(of_half, lines=lines[0]),
        "memory": summary_of(of_most, lines=lines[1], reader=reader, input_tokens_per_question=160.0),
        "forget": summary_of(of_half, forgotten=forgotten),
    }
    said = told(summaries)[-5:]
    assert (
        said[0]
        == "Of the 300 lines that 40 memories should contain, 70.0 % are right (95 % interval 60.0 to 80.0"
        " %), "
        "50.0 % before GRPO."
    )
    assert said[1].startswith("From its memory alone, the model gets 75.0 % (") and said[1].endswith(
        "50.0 % before GRPO."
    )
    assert said[2].startswith("A fixed reader, the cold start, gets 50.0 % (") and said[2].endswith(
        "and 50.0 % from its own."
    )
    assert (
        said[3]
        == "It reads 160 tokens per question. Reading the full history takes 640 tokens (4.0 times as many)"
        " and gets 75.0 %."
    )
    assert said[4].startswith("Of 6 facts that were in a memory and that users asked to forget, 3 are gone")


def test_a_kind_is_named_once_and_nothing_is_said_of_no_gain():
    def kinds(**shares):
        cells = {kind: {"accuracy": share, "ci95": [0.0, 1.0], "n": 10} for kind, share in shares.items()}
        return summary_of([row(0, 1)], by={"kind": cells})

    def said(before, after):
        return [
            line
            for line in told({"sft": kinds(**before), "grpo": kinds(**after)})[2:]
            if " rules " not in line
        ]

    start = {"plain": 0.5, "changed_mind": 0.3, "forget": 0.2}
    assert said(start, {"plain": 0.6, "changed_mind": 0.9, "forget": 0.25}) == [
        "The largest gain is on changed mind: 30.0 % before, 90.0 % after.",
        "The lowest accuracy after GRPO is on forget: 20.0 % before, 25.0 % after.",
    ]
    assert said(start, {"plain": 0.5, "changed_mind": 0.3, "forget": 0.25}) == [
        "The largest gain is on forget: 20.0 % before, 25.0 % after, still the lowest."
    ]
    assert said(start, {"plain": 0.6, "changed_mind": 0.3, "forget": 0.0}) == [
        "The largest gain is on plain: 50.0 % before, 60.0 % after.",
        "The largest loss is on forget: 20.0 % before, 0.0 % after, still the lowest.",
    ]
    assert said(start, start) == ["The lowest accuracy after GRPO is on forget: 20.0 % before, 20.0 % after."]
    assert said(start, dict.fromkeys(start, 1.0)) == [
        "The largest gain is on forget: 20.0 % before, 100.0 % after."
    ]
    assert said(dict.fromkeys(start, 0.0), dict.fromkeys(start, 0.0)) == []
    assert said({"plain": 0.5}, {"plain": 0.6}) == []  # a single kind is the whole


def of_two_kinds(right_of_others, right_of_self):
    """1,200 rows of 150 people, 300 about somebody else; the gold letters in turn, the options of random
    letters."""
    draw, rows = random.Random(0), []
    for i in range(1200):
        others = i % 4 == 0
        options = ["".join(draw.choices("bcdfghklmn", k=8)) for _ in range(4)]
        gold = "abcd"[draw.randrange(4)]
        right = draw.random() < (right_of_others if others else right_of_self)
        labels = {"who": "others" if others else "self"}
        rows.append(row(i, right, persona=str(i // 8), options=options, gold=gold, labels=labels))
    return rows


def test_no_sentence_says_more_than_each_category_does(monkeypatch):
    monkeypatch.setattr("rft.evaluate.interval.RESAMPLES", 500)
    fair, leaning = of_two_kinds(0.25, 0.25), of_two_kinds(0.70, 0.10)
    at_chance = told({"sft": summary_of(fair), "grpo": summary_of(fair), "blind": summary_of(fair)})
    assert re.search(
        r"no better than guessing, overall and in each of \d+ categories of at least 300 questions, so its "
        r"knowledge comes from the history\.$",
        at_chance[2],
    )
    assert re.search(
        r"within chance for the best of them, overall and in each of \d+ categories", at_chance[3]
    )
    named = told({"sft": summary_of(fair), "grpo": summary_of(fair), "blind": summary_of(leaning)})[2]
    assert "no better than guessing overall, but better in some categories. More than guessing: " in named
    assert "whose preference = others (" in named
    assert "its knowledge" not in named and "= self" not in named


def test_the_page_of_an_evaluation_names_rule_and_category(tmp_path, monkeypatch):
    monkeypatch.setattr("rft.evaluate.interval.RESAMPLES", 500)
    rows = [  # somebody else's preference: always (b)
        changed(r, gold="b" if r.labels["who"] == "others" else random.Random(r.id).choice("acd"))
        for r in of_two_kinds(1.0, 1.0)
    ]
    blind = [changed(r, score=r.labels["who"] == "others") for r in rows]
    summary = summary_of(rows, **summarise(rows, blind=blind).dump())
    write_evaluation_report(summary, rows, tmp_path / "report.html")
    text = " ".join(Page(tmp_path / "report.html").text.split())
    assert f"the strongest rule without the history: {summary.controls['strongest'].rule}" in text
    assert "whose preference = others (always b: 100.0 % of 300)" in text
    assert "More than guessing: " in text and "whose preference = others (100.0 % of 300)" in text


def test_charts_take_colours_from_the_page_and_repeat_exactly():
    table = {"a_b": Measure(accuracy=0.5, ci95=[0.25, 0.75], n=4)}
    one = charts.intervals({"x": table, "y": {}}, "title")
    assert one == charts.intervals({"x": table, "y": {}}, "title")
    assert "var(--series-1)" in one and not re.search("#[0-9a-f]{6}", one) and "a b (4)" in one
    assert "<svg role='img' aria-label=\"title\"" in one and "<style" not in one
    # not typeset as mathematics
    assert ">$x^2$ (4)</text>" in charts.intervals({"": {"$x^2$": table["a_b"]}}, "title")
    line = charts.curves({"": [(i, i / 50) for i in range(50)]}, "reward", share=True, chance=0.25)
    assert "guessing" in line and "guessing" not in charts.curves({"": [(0, 5.0), (1, 4.0)]}, "loss")


def test_series_are_named_above_the_chart_and_in_it_nowhere():
    points = {f"series {i} <b>": [(0, i), (1, i + 1)] for i in range(9)}
    key, svg = charts.curves(points, "title").split("</ul>")
    assert [key.count(f"series {i} &lt;b&gt;</li>") for i in range(9)] == [1] * 9
    looks = re.findall(r'd="([^"]*)" fill="([^"]*)"', key)
    assert len(set(looks)) == 9  # no two look the same
    assert "series" not in re.sub(r"var\(--series-\d\)", "", svg)
    assert "<ul" not in charts.curves({"alone": [(0, 1.0), (1, 2.0)]}, "title")


def test_many_steps_are_smoothed_and_few_are_not():
    assert charts.smoothing(29) == 0 and charts.smoothing(30) == 2
    single, smoothed = (charts.curves({"a": [(i, float(i % 2)) for i in range(n)]}, "t") for n in (29, 30))
    # the steps, thinly, behind the average
    assert single.count("opacity: 0.35") == 0 and smoothed.count("opacity: 0.35") == 1


def test_labels_of_a_chart_do_not_collide():
    names = [f"health and medical conditions, said by another person {i}" for i in range(14)]
    table = {name: Measure(accuracy=0.5, ci95=[0.4, 0.6], n=28) for name in names}
    svg = charts.intervals({"": table}, "title")
    place = r'(?: x="[\d.]+" y="([\d.]+)"| transform="translate\([\d.]+ ([\d.]+)\))'
    lines = re.findall(rf'<text style="font-size: ([\d.]+)px;[^"]*fill: var\(--ink\)"{place}', svg)
    heights = sorted(float(a or b) for _, a, b in lines)
    assert len(heights) == 14 * 4
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) > float(lines[0][0])


def test_figures_fill_two_columns_of_about_the_same_height():
    highs = [300, 120, 120, 420, 200, 90, 640, 100]
    figures = "".join(
        f'<figure class="card"><h3>f{i}</h3><svg role="img" viewBox="0 0 500'
        f' {high}"></svg><details><table>{"<tr>" * 99}</table></details></figure>\n'
        for i, high in enumerate(highs)
    )
    page = columns("\n" + figures)
    left, right = (re.findall(r"<h3>f(\d)", part) for part in page.split('<div class="column">')[1:])
    assert left == sorted(left) and right == sorted(right) and sorted(left + right) == list("01234567")
    short, tall = sorted(([100 + highs[int(i)] for i in column] for column in (left, right)), key=sum)
    assert sum(tall) - sum(short) <= min(tall)  # no figure could stand in the other column instead
    assert columns(figures.split("</figure>")[0] + "</figure>").count('class="column"') == 1


def test_a_card_needs_a_line_and_a_summary_that_has_it():
    rows = [row(i, i % 2) for i in range(4)]
    summary = summary_of(rows)
    names = [name for name, _, _ in cards(summary)]
    assert "without a readable answer" in names and "… including writing the memory" not in names
    forgotten = {"withdrawn": 6, "rate": 0.5, "gone": 3, "written": 6, "kept": []}
    more = summary_of(rows, input_tokens_with_writing=12345.6, forgotten=forgotten)
    assert cards(more)[-1] == (
        "withdrawn facts removed from the memory",
        "50.0\xa0%",
        "3 of 6 that were once written",
    )
    assert ("… including writing the memory", "12,346", "") in cards(more)


def test_a_control_without_a_name_of_its_own_is_shown_too(tmp_path):
    rows = [row(i, i % 2) for i in range(8)]
    controls = summary_of(rows).controls
    summary = summary_of(rows, controls=controls | {"option_word_overlap": controls["longest"]})
    write_evaluation_report(summary, rows, tmp_path / "report.html")
    assert Page(tmp_path / "report.html").text.count("option word overlap") == 2  # in the chart and the table


def test_a_report_that_cannot_be_written_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    rows = [row(0, 1)]
    with pytest.raises(DataError, match="file/report.html: cannot write it"):
        write_evaluation_report(summary_of(rows), rows, tmp_path / "file" / "report.html")
