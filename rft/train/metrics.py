"""What is logged about rollouts: rewards, lengths, formats, and how many answers are right.

Invariant: a metric is the mean over the values of all ranks; NaN values count for nothing.
"""

import math
from collections.abc import Sequence

import reward
from rft.train.rollout import Gather, Rollout


def mean(values: Sequence[float]) -> float:
    """Computes the mean of the numbers that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def deviation(values: Sequence[float]) -> float:
    """Computes the deviation (n - 1) of the numbers that are not NaN; 0 if there are fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return 0.0
    middle = mean(known)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in known) / (len(known) - 1))


def of_all_ranks(values: dict[str, list[float]], gather: Gather) -> dict[str, float]:
    """Returns the mean of every metric that some rank has values of."""
    known = {
        name: ([x for x in of_name if not math.isnan(x)])
        for name, of_name in sorted(values.items())
        if of_name
    }
    pairs = gather([(name, (math.fsum(of_name), len(of_name))) for name, of_name in known.items()])
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for name, _ in pairs):
        totals, counts = zip(*(pair for key, pair in pairs if key == name), strict=True)
        if sum(counts):
            found[name] = math.fsum(totals) / sum(counts)
    return found


def of_rewards(
    rollouts: Sequence[Rollout], names: Sequence[str], group: int, gather: Gather
) -> dict[str, list[float]]:
    """Returns the rewards of answers, without what the memory itself earns, and what each function gave.

    Args:
        rollouts: The rollouts of this rank; `group` neighbours compete.
        names: Names of the reward functions.
        group: Number of rollouts per group.
        gather: Concatenates lists over all ranks.
    """
    rewards = [rollout.reward for rollout in rollouts]
    groups = [rewards[i : i + group] for i in range(0, len(rewards), group)]
    values = {
        "reward": [rollout.reward - rollout.bonus for rollout in rollouts],
        "frac_reward_zero_std": [float(deviation(of_group) == 0) for of_group in groups],
    }
    for i, name in enumerate(names):
        scores = gather([turn.scores[i] for rollout in rollouts for turn in rollout.answers])
        values |= {f"rewards/{name}/mean": [mean(scores)], f"rewards/{name}/std": [deviation(scores)]}
    return values


def of_answers(rollouts: Sequence[Rollout], ends: Sequence[int], gather: Gather) -> dict[str, list[float]]:
    """Returns lengths of answers, how their format was read, and how many are right, by kind of question.

    Args:
        rollouts: The rollouts of this rank.
        ends: Tokens that end a completion.
        gather: Concatenates lists over all ranks.
    """
    answers = [(rollout, turn) for rollout in rollouts for turn in rollout.answers]
    lengths = gather([(len(turn.completion), turn.completion[-1] in ends) for _, turn in answers])
    whole, ended = [float(n) for n, _ in lengths], [float(n) for n, finished in lengths if finished] or [0.0]
    values: dict[str, list[float]] = {"completions/clipped_ratio": [1 - mean([done for _, done in lengths])]}
    for name, of_name in (("length", whole), ("terminated_length", ended)):
        values |= {
            f"completions/mean_{name}": [mean(of_name)],
            f"completions/min_{name}": [min(of_name)],
            f"completions/max_{name}": [max(of_name)],
        }
    asked = [
        (rollout, turn.question, reward.read(turn.text, turn.question.options))
        for rollout, turn in answers
        if turn.question is not None and not turn.question.open_ended
    ]
    if asked:
        rates = reward.reading_metrics(
            [said for *_, said in asked],
            [question.gold for _, question, _ in asked],
            max(len(question.options) for _, question, _ in asked),
        )
        values |= {name: [value] for name, value in rates.items()}
    for rollout, question, said in asked:
        right = said.letter == question.gold
        for name in ("blind",) if rollout.blind else ("all", *filter(None, [question.kind])):
            values.setdefault(f"right/{name}", []).append(float(right))
            values.setdefault(f"right_and_consistent/{name}", []).append(float(right and said.consistent))
    return values
