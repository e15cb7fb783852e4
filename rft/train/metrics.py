"""Measures a step of training: makes of rollouts what metrics see, and gathers it over all ranks.

Invariant: every rank computes the metrics of the whole step (`rft.metrics.table`) from the same rollouts, so
they do not depend on the number of ranks.
"""

import math
from collections.abc import Mapping, Sequence

from rft.errors import TrainingError
from rft.metrics import table
from rft.metrics.step import Answer, Step, Trajectory, Update, mean
from rft.train.rollout import Gather, Rollout


def of_all_ranks(
    rollouts: Sequence[Rollout],
    group: int,
    names: Sequence[str],
    ends: Sequence[int],
    logged: Mapping[str, Sequence[float]],
    gather: Gather,
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the metrics of a step, and the means of what was logged on all ranks.

    Args:
        rollouts: The rollouts of this rank; `group` neighbours compete.
        group: Number of rollouts per group.
        names: Names of the reward functions.
        ends: Tokens that end a completion.
        logged: {name: values} of this rank.
        gather: Concatenates lists over all ranks.
    """
    seen = [_seen(rollout, names, ends) for rollout in rollouts]
    ranks = gather([([seen[i : i + group] for i in range(0, len(seen), group)], dict(logged))])
    found: dict[str, list[float]] = {}
    for _, of_rank in ranks:
        for name, values in sorted(of_rank.items()):
            found.setdefault(name, []).extend(values)
    step = Step([of_group for groups, _ in ranks for of_group in groups])
    means = {name: mean(values) for name, values in found.items()}
    return table.REGISTRY.measure(step), {
        name: value for name, value in means.items() if not math.isnan(value)
    }


def check_logged(name: str) -> None:
    """Checks a name that a reward logs with `log_metric`.

    Raises:
        TrainingError: If it is the name of a metric of ours.
    """
    metric = table.find(name)
    if metric is not None and not metric.by_reward:
        raise TrainingError(
            f"log_metric({name!r}): rft logs a metric of this name itself ({metric.meaning}); choose another,"
            f" such as 'mine/{name}'"
        )


def _seen(rollout: Rollout, names: Sequence[str], ends: Sequence[int]) -> Trajectory:
    answers = [
        Answer(
            tokens=len(turn.completion),
            ended=turn.completion[-1] in ends,
            scores=dict(zip(names, turn.scores, strict=True)),
            blind=rollout.blind,
            kind=turn.question.kind,
            gold=turn.question.gold or "",
            options=len(turn.question.options),
            reading=turn.reading,
        )
        for turn in rollout.answers
        if turn.question is not None
    ]
    updates = [
        Update(len(turn.completion), turn.update.cut, turn.update.empty)
        for turn in rollout.updates
        if turn.update is not None
    ]
    return Trajectory(answers, rollout.reward, rollout.bonus, rollout.blind, updates, rollout.memory_tokens)
