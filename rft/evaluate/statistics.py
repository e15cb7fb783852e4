"""Statistics of result rows, with bootstrap intervals over personas.

Invariant: a summary depends only on the set of rows, not on their order or on the number of runs that
collected them. The unit of resampling is the persona, because the questions of one persona share a history
and are not independent. A row without a score (the judge could not be reached) is counted and never treated
as wrong.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any

from reward import has_reasoning
from reward.free_text import abstains, equal, f1
from reward.judge import majority
from reward.mcq import LETTERS, answer_part
from rft.data import rules
from rft.data.rules import UNKNOWN, Asked
from rft.evaluate.interval import interval
from rft.evaluate.skill import SkilledRow, mean, skill, with_skill
from rft.models.reply import REFUSED
from rft.records.row import ResultRow, grouped
from rft.records.summary import Cell, Control, OptionOrders, Samples, Statistics, Usage
from rft.tasks.base import MOST_VALUES
from rft.tasks.load import task_named

# lower edges of history lengths, in tokens of 4 characters
LENGTHS = (0, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_AFTER_NUMBERS = 10**15


def summarise(
    rows: Sequence[ResultRow], seed: int = 0, blind: Sequence[ResultRow] = (), report_by: Collection[str] = ()
) -> Statistics:
    """The statistics of N >= 1 result rows, as in `summary.json`.

    Several rows of one question (samples, option orders) count as one question and are averaged.

    Args:
        rows: the result rows.
        seed: random seed of the bootstrap.
        blind: rows of the same model without the history, one per question.
        report_by: names of the breakdowns; (): all of the rows that have at most `MOST_VALUES` values.

    Returns:
        accuracy: mean of `score`, the gated reward (None if no row has a score).
        ci95: 95 % interval of the accuracy over personas (None if no row has a score).
        accuracy_without_gate: share that names the gold letter (or satisfies the judge), with or without
            reasoning.
        n, personas, asked: number of scored questions, of personas and of rows.
        not_scored: number of rows without a score.
        unparsed_rate: share whose box names no letter (open-ended: empty answers); refused answers count only
            in refused_rate.
        format_rate: share that reasons before the answer.
        guessing: share that is right if letters are guessed; a question without options counts 0 (only if it
            is not 1/4, and some question has options).
        exact_match, token_f1: means of `reward.free_text` over the answers that are compared with accepted
            texts, with or without reasoning (only if there are some).
        answer_letters: how many answers name each letter.
        (entries of `rft.evaluate.skill.skill`, and right_and_consistent_ci95; not for open-ended questions.
            If only some questions have options, the others count in right_and_consistent with their score)
        refused_rate: share of answers that were refused.
        endings: number of missing answers, by reason.
        adapted: number of answers for which the server rejected a setting, by the change made instead.
        cut_off_rate: share of completions that reached the length limit.
        input_tokens_per_question, output_tokens_per_question: means over the answers whose tokens the server
            reports (None if it reports none).
        input_tokens_with_writing: input_tokens_per_question plus the tokens read to write the memories,
            divided over the questions (only with memories).
        by: {category: {value: {accuracy, ci95, n, accuracy_without_gate, right_and_consistent, consistent,
            thought_right, right_and_consistent_ci95}}}.
        controls: {blind, longest, shortest, strongest: {accuracy, ci95, n, explains}}. explains: share of the
            right answers that the control gets right too; a control at chance explains 25 %. strongest also
            has {rule, tried, bar, telling} (see `rft.data.rules.Strongest`). blind and strongest also have
            by: the same for each category value with at least 300 rows.
        explained_by_shortcut: the largest explains of all controls (None without right answers).
        samples, option_orders: see `of_samples` and `of_orders` (only if questions were asked several times).
        usage: tokens, dollars and failed calls by kind, summed over all rows.
        seconds: time spent on answering.
    """
    rows = [row if row.open_ended else with_skill(row) for row in rows]
    skilled = [row for row in rows if isinstance(row, SkilledRow)]
    letters = Counter(row.answered or "none" for row in skilled)
    most = max(len(row.options) for row in rows)
    guessing = sum(1 / len(row.options) for row in skilled) / len(rows)
    cell = _cell(rows, seed).dump()
    refused = [row.ending in REFUSED for row in rows]
    controls = of_controls(rows, blind, seed)
    return Statistics(
        **cell
        | (skill(skilled) | {key: cell[key] for key in MIXED} if skilled else {})
        | ({"guessing": guessing} if skilled and guessing != 0.25 else {})
        | _comparison([row for row in rows if row.compared])
        | ({"samples": of_samples(rows)} if any(row.sample for row in rows) else {})
        | ({"option_orders": of_orders(rows)} if any(row.order for row in rows) else {})
        | _with_writing(rows),
        personas=len({row.persona_id for row in rows}),
        asked=len(rows),
        not_scored=sum(row.score is None for row in rows),
        unparsed_rate=mean([row.answered is None and not no for row, no in zip(rows, refused, strict=True)]),
        format_rate=mean([has_reasoning(row.completion) for row in rows]),
        answer_letters={letter: letters[letter] for letter in (*LETTERS[:most], "none")},
        refused_rate=mean(refused),
        endings=_counted([row.ending] if row.ending else [] for row in rows),
        adapted=_counted(row.adapted for row in rows),
        cut_off_rate=mean([not row.finished for row in rows]),
        input_tokens_per_question=_mean_known([row.input_tokens for row in rows]),
        output_tokens_per_question=_mean_known([row.output_tokens for row in rows]),
        by={name: _table(rows, values, seed) for name, values in breakdowns(rows, report_by).items()},
        controls=controls,
        explained_by_shortcut=max(
            (c.explains for c in controls.values() if c.explains is not None), default=None
        ),
        usage=_usage(rows),
        seconds=round(math.fsum(row.seconds for row in rows), 3),
    )


def _with_writing(rows: Sequence[ResultRow]) -> dict[str, float]:
    """Counts the writing of a memory once for all questions of its history and all variants of a question."""
    written = {row.history_id: row.writing_tokens for row in rows if row.writing_tokens}
    if not written:
        return {}
    questions = len({row.question for row in rows})
    read = _mean_known([row.input_tokens for row in rows]) or 0.0
    return {"input_tokens_with_writing": read + sum(written.values()) / questions}


def ungated(row: ResultRow) -> float | None:
    """The score of an answer with or without reasoning; None if it is not scored."""
    if not row.open_ended:
        return float(row.answered == row.gold)
    return _compared(row, equal) if row.compared and not row.votes else majority(row.votes)


def breakdowns(rows: Sequence[ResultRow], report_by: Collection[str] = ()) -> dict[str, list[str]]:
    """{name of a breakdown: its value of each row, "" if a row has none}, the history's length last.

    Args:
        rows: the result rows.
        report_by: names of the breakdowns; (): all of the rows that have at most `MOST_VALUES` values.
    """
    groups = [task_named(row.task).groups(row.labels) for row in rows]
    values = {
        name: [of_row.get(name, "") for of_row in groups]
        for name in dict.fromkeys(name for of_row in groups for name in of_row)
    }
    shown = {
        name: of_rows
        for name, of_rows in values.items()
        if (name in report_by if report_by else len(set(of_rows)) <= MOST_VALUES)
    }
    return shown | {"history_length": [length_bucket(row.history_characters) for row in rows]}


def _comparison(rows: Sequence[ResultRow]) -> dict[str, float]:
    """Exact match and token F1 of free answers."""
    if not rows:
        return {}
    return {
        "exact_match": mean([_compared(row, equal) for row in rows]),
        "token_f1": mean([_compared(row, f1) for row in rows]),
    }


def _compared(row: ResultRow, measure: Callable[[str, Sequence[str]], float]) -> float:
    answer = answer_part(row.completion)
    return float(abstains(answer)) if row.abstain else measure(answer, row.accepted)


def of_controls(rows: Sequence[ResultRow], blind: Sequence[ResultRow], seed: int = 0) -> dict[str, Control]:
    """The accuracy that controls reach without the history.

    The controls are the same model without the history, the longest and the shortest option, and the
    strongest of all rules of `rft data check` (`rft.data.rules`, including the trained probe). Each is scored
    on the question variants of `rows`. If a rule ranks several options first, each counts with an equal
    share.

    Returns:
        `controls` of `summarise`; only blind, if given, for open-ended questions.
    """
    blind_scores = {row.id: row.score for row in blind}
    controls: dict[str, Control] = {}
    blind_scored = [(row, score) for row in rows if (score := blind_scores.get(row.question)) is not None]
    if blind_scored:
        by = _in_large_cells(
            [row for row, _ in blind_scored], lambda cell: _control([blind_scored[i] for i in cell], seed)
        )
        controls["blind"] = _control(blind_scored, seed, by=by)
    rows = [row for row in rows if row.gold is not None and not row.open_ended]
    if not rows:
        return controls
    asked = [
        Asked(row.persona_id, row.query, row.options, LETTERS.index(row.gold))
        for row in rows
        if row.gold is not None
    ]
    counts = [len(row.options) for row in rows]
    rule_scores = rules.scores(asked)
    for name in ("longest", "shortest"):
        controls[name] = _control(list(zip(rows, rule_scores[f"{name} option"], strict=True)), seed)

    def strongest(cell: Sequence[int], **by: Any) -> Control:
        best = rules.strongest(rule_scores, cell, counts)
        scored = [(rows[i], rule_scores[best.rule][i]) for i in cell]
        found = {"rule": best.rule, "tried": best.tried, "bar": best.bar, "telling": best.telling}
        return _control(scored, seed, **found, **by)

    controls["strongest"] = strongest(range(len(rows)), by=_in_large_cells(rows, strongest))
    return controls


def _control(scored: Sequence[tuple[ResultRow, float]], seed: int, **more: Any) -> Control:
    """A control from (row, score of the control) pairs; `more` are its other entries."""
    hits = [score for row, score in scored if row.score]
    return Control(**_measure(scored, seed), explains=mean(hits) if hits else None, **more)


def _in_large_cells(
    rows: Sequence[ResultRow], control: Callable[[Sequence[int]], Control]
) -> dict[str, dict[str, Control]]:
    """{category: {value: the control on the rows with these indices}} for large cells."""
    return {
        name: {value: control(cell) for value, cell in rules.cells(values).items()}
        for name, values in breakdowns(rows).items()
    }


def of_samples(rows: Sequence[ResultRow]) -> Samples:
    """Statistics of several completions per prompt.

    Returns:
        count: smallest number of samples per prompt.
        mean: mean score.
        majority: share of prompts whose most frequent readable, reasoned answer is right (on ties the first
            one counts); for open-ended answers, share of prompts with more than half of the samples right.
        pass_at: {k: unbiased probability that at least one of k samples is right} (Chen et al., arXiv
            2107.03374, equation 1).
    """
    groups = [
        sorted(group, key=lambda row: row.sample)
        for group in grouped(((row.question, row.order), row) for row in rows).values()
        if all(row.score is not None for row in group)
    ]
    if not groups:
        return Samples(count=0, mean=None, majority=None, pass_at={})
    scores = [_scores(group) for group in groups]
    count = min(map(len, groups))
    sizes = sorted({2**i for i in range(count.bit_length()) if 2**i <= count} | {count})
    return Samples(
        count=count,
        mean=mean([mean(of_group) for of_group in scores]),
        majority=mean([_majority_is_right(group) for group in groups]),
        pass_at={
            str(k): mean([_pass_at(k, len(all_), sum(score > 0 for score in all_)) for all_ in scores])
            for k in sizes
        },
    )


def of_orders(rows: Sequence[ResultRow]) -> OptionOrders:
    """Consistency and position bias over rotations of the options.

    Returns:
        count: largest number of orders per question.
        consistency: share of questions (each sample separately) with the same option chosen in every order.
        position_bias: half the sum over letters of |share of readable answers - share by guessing| (0: no
            bias; 0.75: always the same of four letters).
        accuracy_at: {letter: accuracy if the gold option is at this letter}.
    """
    rows = [row for row in rows if not row.open_ended]
    asked = grouped(((row.question, row.sample), row) for row in rows)
    groups = [group for group in asked.values() if len(group) > 1]
    chosen = [{_option(row) for row in group} for group in groups]
    readable = [row for row in rows if row.answered]
    letters, total = Counter(row.answered for row in readable), len(readable)
    by_guessing = {
        x: sum(1 / len(r.options) for r in readable if x in LETTERS[: len(r.options)]) for x in LETTERS
    }
    at = {letter: _scores([row for row in rows if row.gold == letter]) for letter in LETTERS}
    return OptionOrders(
        count=max(map(len, groups), default=1),
        consistency=(
            mean([len(options) == 1 and None not in options for options in chosen]) if chosen else None
        ),
        position_bias=(
            sum(abs(letters[x] / total - by_guessing[x] / total) for x in LETTERS) / 2 if total else None
        ),
        accuracy_at={letter: mean(scores) for letter, scores in at.items() if scores},
    )


def _option(row: ResultRow) -> str | None:
    return row.options[LETTERS.index(row.answered)] if row.answered else None


def _majority_is_right(group: Sequence[ResultRow]) -> bool:
    if group[0].open_ended:
        return 2 * sum(_scores(group)) > len(group)
    votes = Counter(row.answered for row in group if row.answered and has_reasoning(row.completion))
    return bool(votes) and votes.most_common(1)[0][0] == group[0].gold


def _pass_at(k: int, n: int, correct: int) -> float:
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def _usage(rows: Sequence[ResultRow]) -> Usage:
    failures: Counter[str] = Counter()
    for row in rows:
        failures.update(row.failures)
    return Usage(
        input_tokens=_total([row.input_tokens for row in rows]),
        cached_tokens=_total([row.cached_tokens for row in rows]),
        output_tokens=_total([row.output_tokens for row in rows]),
        answers_without_usage=sum(row.input_tokens is None or row.output_tokens is None for row in rows),
        cost=math.fsum(row.cost for row in rows),
        failures=dict(sorted(failures.items())),
    )


def _total(values: Iterable[int | None]) -> int | None:
    """The sum of the known values; None if there is none."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean_known(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _counted(labels: Iterable[Sequence[str]]) -> dict[str, int]:
    return dict(sorted(Counter(chain.from_iterable(labels)).items()))


def length_bucket(characters: int | None) -> str:
    """The bucket of a history's length in units of 1024 tokens, such as "4k-8k" (1 token = 4 characters)."""
    if characters is None:
        return UNKNOWN
    return _LENGTHS[sum(characters >= 4 * edge for edge in LENGTHS) - 1]


_LENGTHS = [
    *(f"{low // 1024}k-{high // 1024}k" for low, high in zip(LENGTHS, LENGTHS[1:], strict=False)),
    f"{LENGTHS[-1] // 1024}k+",
]
MIXED = ("right_and_consistent", "right_and_consistent_ci95")


def _table(rows: Sequence[ResultRow], values: Sequence[str], seed: int) -> dict[str, Cell]:
    groups = grouped(zip(values, rows, strict=True))
    return {value: _cell(groups[value], seed) for value in sorted(groups, key=_rank)}


def _cell(rows: Sequence[ResultRow], seed: int) -> Cell:
    scored = [(row, row.score) for row in rows if row.score is not None]
    free = [value for row, _ in scored if (value := ungated(row)) is not None]
    without_gate = mean(free) if free else None
    return Cell(**_measure(scored, seed), accuracy_without_gate=without_gate, **_skill(rows, seed))


def _measure(scored: Sequence[tuple[ResultRow, float]], seed: int) -> dict[str, Any]:
    """The entries of `Measure`: the mean of the scores with its interval; `n` counts questions, not their
    samples and orders."""
    return {
        "accuracy": mean([score for _, score in scored]) if scored else None,
        "ci95": interval([(row.persona_id, score) for row, score in scored], seed) if scored else None,
        "n": len({row.question for row, _ in scored}),
    }


def _scores(rows: Sequence[ResultRow]) -> list[float]:
    return [row.score for row in rows if row.score is not None]


def _skill(rows: Sequence[ResultRow], seed: int) -> dict[str, Any]:
    """The skill measures of one category value; {} for rows without options."""
    skilled = [row for row in rows if isinstance(row, SkilledRow)]
    if not skilled:
        return {}
    of_rows = skill(skilled)
    right = [
        (row.persona_id, row.right_and_consistent if isinstance(row, SkilledRow) else row.score)
        for row in rows
    ]
    known = [(persona, score) for persona, score in right if score is not None]
    return {
        "right_and_consistent": mean([score for _, score in known]),
        "consistent": of_rows["consistent"],
        "thought_right": of_rows["thought_right"],
        "right_and_consistent_ci95": interval(known, seed),
    }


def _rank(value: str) -> tuple[int, str]:
    """Sort key: values that begin with a number by this number, then "unknown", then all others by name."""
    number = re.match(r"\d{1,15}", value)
    if number:
        return (int(number[0]), value)
    return (_AFTER_NUMBERS + (value != UNKNOWN), value)
