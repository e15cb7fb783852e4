"""The table of metrics: every name has one entry, and every page, log and summary reads it."""

import importlib.util
import json
import re
from collections import defaultdict

import pytest

import reward
from rft.errors import RecipeError, TrainingError
from rft.metrics.metric import LOG, SUMMARY, Metric, Registry
from rft.metrics.page import page
from rft.metrics.step import Answer, Step, Trajectory
from rft.metrics.table import REGISTRY, find, named
from rft.records.summary import Statistics
from rft.records.training import METRICS
from rft.report.panels import PANELS
from rft.report.training import write_report
from rft.tasks.load import load_split
from rft.train.metrics import check_logged, of_all_ranks
from rft.train.rewards import Scorer
from rft.train.rollout import Rollout, Turn
from rft.train.targets import target
from rft.train.trl import RecordsMixin

OPTIONS = ("Learning Latin.", "Something quite new.", "Learning Welsh.", "Learning Czech.")
HONEST = r"<think>Remembered: Enjoys learning Latin. Learning Latin is (a).</think>Learning Latin \boxed{a}"
HOLLOW = HONEST.replace("</think>Learning Latin", "</think>Something quite new")
STEP = Step(  # two groups of two completions
    [
        [
            Trajectory([Answer(kind="plain", gold="a", options=4, reading=reward.read(text, OPTIONS))])
            for text in group
        ]
        for group in ((HONEST, HONEST), (HOLLOW, ""))
    ]
)


def test_the_page_in_the_docs_is_current(repository):
    current = (repository / "docs/metrics.md").read_text() == page()
    assert current, "run `python -m rft.metrics.page docs/metrics.md`"


def test_a_name_has_one_entry():
    assert find("right/all") is not find("right/changed") and find("right/changed").name == "right/KIND"
    assert find("rewards/f/mean").part("rewards/f/mean") == "f" and find("rewards/a/b/mean") is None
    twice = [Metric("speed", "How fast."), Metric("speed", "How soon.")]
    with pytest.raises(ValueError, match="metric speed is registered twice in rft/metrics/table.py: as 'How"):
        Registry(twice)
    with pytest.raises(ValueError, match="metric speed is not registered: add it to rft/metrics/table.py"):
        named("speed")


def test_an_entry_says_all_that_a_page_shows():
    titles = {panel.title for section in PANELS.values() for panel in section}
    for metric in REGISTRY.all:
        assert metric.meaning.endswith(".") and metric.meaning[0].isupper()
        assert metric.panel in titles or not metric.panel, f"{metric.name}: no panel {metric.panel}"
        assert metric.series or metric.is_family or not metric.panel
    shown = [
        (metric.card, file) for file in (LOG, SUMMARY) for metric in REGISTRY.of_file(file) if metric.card
    ]
    assert len(set(shown)) == len(shown)


def test_every_figure_of_a_summary_has_an_entry():
    registered = {metric.name for metric in REGISTRY.of_file(SUMMARY)}
    figures = {
        name
        for name, field in Statistics.model_fields.items()
        if field.annotation in (float, float | None) and name not in ("seconds", "explained_by_shortcut")
    }
    assert registered == figures


def test_questions_without_kinds_are_counted_in_all_alone():
    answer = Answer(gold="a", options=4, reading=reward.read(HONEST, OPTIONS))
    found = REGISTRY.measure(Step([[Trajectory([answer])]]))
    assert found["right/all"] == 1 and not {"right/", "right_and_consistent/"} & found.keys()


def test_a_name_that_is_not_registered_is_not_recorded():
    class Recorder(RecordsMixin):
        _metrics = {"train": defaultdict(list)}

    recorder = Recorder.__new__(Recorder)  # without a model
    recorder.record("right/changed", 0.5)
    recorder.record("mine", 1.0, registered=False)
    with pytest.raises(ValueError, match="metric mine is not registered"):
        recorder.record("mine", 1.0)
    assert recorder._metrics["train"] == {"right/changed": [0.5], "mine": [1.0]}


def test_a_reward_cannot_log_under_a_name_of_ours(mini_data, tiny_checkpoint):
    from transformers import AutoTokenizer

    for name in ("mine", "judge/not_scored", "reward/failed_rows"):
        check_logged(name)
    with pytest.raises(TrainingError, match=r"log_metric\('loss'\): rft logs a metric of this name itself"):
        check_logged("loss")

    def mixed_up(completions, log_metric):
        log_metric("right/changed", 1.0)
        return [0.0] * len(completions)

    question = load_split(mini_data, "train").questions[0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    with pytest.raises(RecipeError, match=r"reward mixed_up: log_metric\('right/changed'\): .*'mine/right"):
        Scorer([mixed_up]).check(question, target(question), "", tokenizer)


def test_metrics_tell_the_hollow_run_from_an_honest_one():
    found = REGISTRY.measure(STEP)
    assert list(found) == sorted(found)
    assert (found["right/all"], found["right/plain"]) == (0.75, 0.75)
    assert found["right_and_consistent/all"] == found["answer_right"] == 0.5
    assert (found["consistent"], found["thought_right"]) == (2 / 3, 0.75)
    assert (found["unparsed_rate"], found["format_rate"], found["thought_words"]) == (0.25, 0.75, 6)
    assert (found["groups/all_right"], found["groups/all_wrong"]) == (0.5, 0)  # HOLLOW has the right box
    letters = [found[f"answer_letters/{x}"] for x in ("a", "b", "c", "d", "none")]
    assert letters == [0.75, 0, 0, 0, 0.25]
    assert not {"right/blind", "memory/tokens", "reward"} & found.keys()


def test_letters_are_absent_if_no_reward_can_take_them(mini_data):
    def helpful(completions, query):
        return [float(len(text)) for text in completions]

    def any_column(completions, **columns):
        return helpful(completions, "")

    split = load_split(mini_data, "train")
    question = split.questions[0]
    text = target(question)
    for function, reads in ((helpful, False), (any_column, True), (reward.personamem, True)):
        turn = Turn([1], [2], None, question=question, text=text)
        rollout = Rollout(split.history_of(question), questions=[question], answers=[turn])
        scorer = Scorer([function])
        scorer.score([rollout], [2], trainer_state=None, log_metric=None, log_extra=None)
        found, _ = of_all_ranks([rollout], 1, scorer.names, [2], {}, lambda values: values)
        assert ("right/all" in found, "unparsed_rate" in found) == (reads, reads)
        assert found[f"rewards/{function.__name__}/mean"] == turn.scores[0]


def test_all_ranks_have_the_metrics_of_one_that_has_all_rollouts(mini_data):
    split = load_split(mini_data, "train")
    rollouts = []
    for i, question in enumerate(split.questions[:6]):
        text = target(question) if i % 3 else ""
        turn = Turn([1], [3] * i + [2 + i % 2], None, question, text=text, scores=[i / 7], reward=i / 7)
        turn.reading = reward.read(text, question.options)
        rollouts.append(Rollout(split.history_of(question), i == 4, [question], answers=[turn]))

    def measured(parts):
        """What the last rank finds."""
        sent = []
        for part, logged in zip(parts, ({"mine": [1.0]}, {"mine": [4.0, float("nan")]}), strict=False):
            found = of_all_ranks(part, 2, ["f"], [2], logged, lambda own: (sent.extend(own), sent)[1])
        return found

    ours, own = measured([rollouts])
    assert own == {"mine": 1.0} and 0 < ours["right/all"] < 1 and "right/blind" in ours
    assert measured([rollouts[:2], rollouts[2:]]) == (ours, {"mine": 2.5})


def test_a_logged_metric_is_on_the_page_and_in_the_workspace(tmp_path, repository):
    """Every metric with a chart, a family by one of its members."""
    logged = {
        metric.name.replace("KIND", "changed").replace("LETTER", "c")
        for metric in REGISTRY.all
        if metric.panel
    }
    lines = [json.dumps({"step": step, "time": 0.0} | dict.fromkeys(logged, 0.5)) for step in (1, 2)]
    (tmp_path / METRICS).write_text("\n".join(lines) + "\n")
    write_report(tmp_path, tmp_path / "page.html")
    shown = (tmp_path / "page.html").read_text()
    assert "Not logged by this run" not in shown and ">all wrong<" in shown and ">changed<" in shown
    spec = importlib.util.spec_from_file_location("workspace", repository / "launch/wandb_workspace.py")
    workspace = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(workspace)
    found = set()
    for panel in (panel for section in PANELS.values() for panel in section):
        wanted = workspace.selected(panel.metrics)
        pattern = wanted.get("metric_regex", "|".join(map(re.escape, wanted.get("y", []))))
        found |= {name for name in logged if re.fullmatch(pattern, f"train/{name}")}
    assert found == logged
