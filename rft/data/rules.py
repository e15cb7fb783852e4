"""Rules that answer a question from its query and options alone, and their scores.

Invariant: no rule sees a history or a label. No rule is scored on its training data: the trained rules (on
the words of the options, and on their full texts) are scored on people whose questions they were not trained
on. On fair data each rule stays at chance in every category of questions. A policy can reach the same score
without reading the history.

The best of many rules is above chance by luck. Therefore a score counts as telling (significantly above
chance) only above `bar`: at least three points above chance, and above a Bonferroni-corrected threshold. With
this threshold, guessing puts the best of all rules above the bar at most as often as it puts a single rule
three standard errors above chance.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from reward.mcq import LETTERS
from rft.data.probe import Asked, choices, folds, overlaps, words
from rft.data.question import Question

ERRORS, POINTS = 3, 0.03  # least distance above chance: in standard errors (for one rule), and as a share
LEAST = 300  # fewest questions of a category value that is evaluated separately
UNKNOWN = "unknown"  # a value of a breakdown that stands for a missing label
PROBE = "a trained probe on the options"


class Strongest(NamedTuple):
    """The best of `tried` rules on n questions; it is `telling` if its score is above `bar`."""

    rule: str
    score: float
    n: int
    tried: int
    bar: float

    @property
    def telling(self) -> bool:
        """Whether the score is above `bar`."""
        return self.score > self.bar

    def record(self) -> dict[str, object]:
        """Returns all fields and `telling` as a dict."""
        return {**self._asdict(), "telling": self.telling}


def asked(question: Question) -> Asked:
    """Returns the parts of a question with options that a rule may use."""
    assert question.gold is not None
    return Asked(question.persona_id, question.query, question.options, LETTERS.index(question.gold))


def chance(options: Sequence[int]) -> float:
    """Returns the score of guessing on N >= 1 questions with these numbers of options."""
    return sum(1 / count for count in options) / len(options)


def bar(n: int, tried: int, guessing: float) -> float:
    """Returns the score on n questions above which chance does not explain the best of `tried` rules;
    guessing alone scores `guessing`.

    Bonferroni correction: the probability that one guess is three standard errors too high is divided among
    the rules.
    """
    errors = NormalDist().inv_cdf(1 - NormalDist().cdf(-ERRORS) / tried)
    return guessing + max(POINTS, errors * (guessing * (1 - guessing) / n) ** 0.5)


def scores(questions: Sequence[Asked]) -> dict[str, list[float]]:
    """Returns {rule: its score on each question}: 1 or 0, or the expected score if the rule ranks several
    options first.

    The probe is omitted if there are too few questions to train it.
    """
    common = Counter(option for question in questions for option in question.options)
    ranked = {rules: [measure(question) for question in questions] for rules, measure in MEASURES.items()}
    ranked["the most common option text", "the least common option text"] = [
        [common[option] for option in question.options] for question in questions
    ]
    ranked["the option text most often gold", "the option text least often gold"] = _gold_rates(questions)
    rule_scores: dict[str, list[float]] = {}
    for (most, least), values in ranked.items():
        for rule, extreme in ((most, max), (least, min)):
            rule_scores[rule] = [_taken(v, q.gold, extreme) for v, q in zip(values, questions, strict=True)]
    letters = max((len(question.options) for question in questions), default=0)
    for place, letter in enumerate(LETTERS[:letters]):
        rule_scores[f"always {letter}"] = [float(question.gold == place) for question in questions]
    if (chosen := choices(questions)) is not None:
        rule_scores[PROBE] = [
            float(choice == question.gold) for choice, question in zip(chosen, questions, strict=True)
        ]
    return rule_scores


def strongest(
    rule_scores: Mapping[str, Sequence[float]], rows: Iterable[int], options: Sequence[int]
) -> Strongest:
    """Returns the strongest rule on some of the questions.

    Args:
        rule_scores: result of `scores`.
        rows: indices of the questions; at least one.
        options: number of options of every question.
    """
    rows = list(rows)
    means = {rule: sum(values[row] for row in rows) / len(rows) for rule, values in rule_scores.items()}
    rule = max(means, key=lambda name: means[name])
    least = bar(len(rows), len(rule_scores), chance([options[row] for row in rows]))
    return Strongest(rule, means[rule], len(rows), len(rule_scores), least)


def cells(values: Sequence[str], least: int = LEAST) -> dict[str, list[int]]:
    """Returns {value: its rows} for the values of a breakdown that have a name and at least `least` rows."""
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        rows.setdefault(value, []).append(row)
    return {value: rows[value] for value in sorted(rows) if len(rows[value]) >= least and not nameless(value)}


def nameless(value: str) -> bool:
    """Returns whether a value of a breakdown stands for a missing label."""
    return value in ("", UNKNOWN)


def _taken(values: Sequence[float], gold: int, extreme: Callable[[Sequence[float]], float]) -> float:
    """Expected score of choosing at random among the options with the extreme value."""
    extreme_value = extreme(values)
    return 1 / list(values).count(extreme_value) if values[gold] == extreme_value else 0.0


def _gold_rates(questions: Sequence[Asked]) -> list[list[float]]:
    """For each option, how often its text is gold when shown, in the questions of the other folds, smoothed
    so that a text that is new there is at chance."""
    fold = folds([question.persona_id for question in questions])
    shown: Counter[tuple[int | None, str]] = Counter()
    gold_counts: Counter[tuple[int | None, str]] = Counter()
    for question, held_out in zip(questions, fold, strict=True):
        gold = question.options[question.gold]
        for key in (None, held_out):
            shown.update((key, option) for option in question.options)
            gold_counts[key, gold] += 1

    def rate(text: str, fold: int, options: int) -> float:
        times_shown = shown[None, text] - shown[fold, text]
        gold = gold_counts[None, text] - gold_counts[fold, text]
        return (gold + 1) / (times_shown + options)

    return [
        [rate(option, held_out, len(question.options)) for option in question.options]
        for question, held_out in zip(questions, fold, strict=True)
    ]


def _shared_with_query(question: Asked) -> list[float]:
    query = set(words(question.query))
    return [len(query.intersection(words(option))) for option in question.options]


def _marks(question: Asked) -> list[float]:
    """Number of punctuation marks that express a tone."""
    return [len(re.findall(r"[!?,;:—–()\"“”‘’]", option)) for option in question.options]


MEASURES: dict[tuple[str, str], Callable[[Asked], list[float]]] = {
    ("longest option", "shortest option"): lambda q: [len(option) for option in q.options],
    ("most words of the query", "fewest words of the query"): _shared_with_query,
    ("most like the other options", "least like the other options"): lambda q: overlaps(q.options),
    ("most punctuation", "least punctuation"): _marks,
}
