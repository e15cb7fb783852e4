"""Bootstrap intervals over personas.

Invariant: the unit of resampling is the persona, because the questions of one persona share a history and are
not independent.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000


def interval(values: Sequence[tuple[str, float]], seed: int = 0) -> list[float]:
    """The 95 % interval [low, high] of the mean of (persona, share) pairs, over resampled personas; see
    `interval_of_ratio`."""
    return interval_of_ratio(*by_persona(values), 0.0, 1.0, seed)


def by_persona(values: Sequence[tuple[str, float]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(sum of the values, count) per persona: two arrays of shape (P,), sorted by persona id."""
    order = {persona: i for i, persona in enumerate(sorted({persona for persona, _ in values}))}
    who = [order[persona] for persona, _ in values]
    totals = np.bincount(who, weights=[value for _, value in values]).astype(np.float64)
    return totals, np.bincount(who)


def interval_of_ratio(
    total_P: NDArray[np.float64], count_P: NDArray[np.int64], lowest: float, highest: float, seed: int = 0
) -> list[float]:
    """The 95 % interval [low, high] of sum(total) / sum(count) over resampled personas.

    Personas are resampled with replacement. The percentiles are widened for few personas (the expanded
    percentile interval: Hesterberg, "What Teachers Should Know About the Bootstrap", The American
    Statistician 69, 2015). If all personas have the same mean, for example if every answer is right, all
    resamples are equal. Then the bounds are those for P personas of which none differs (for all right or all
    wrong, the exact bounds of Clopper and Pearson, 1934). A single persona says nothing about others: the
    interval is [lowest, highest], unless its mean is one of these bounds.

    Args:
        total_P: sum of the values of each of the P personas.
        count_P: number of values of each persona.
        lowest, highest: bounds of a single value.
        seed: random seed of the bootstrap.
    """
    personas = len(count_P)
    mean_P = total_P / count_P
    if np.ptp(mean_P) < 1e-12:
        mean = float(mean_P[0])
        if personas == 1 and lowest < mean < highest:
            return [lowest, highest]
        others = 1 - 0.025 ** (1 / personas)  # the largest share of differing personas that P draws may miss
        return [mean - others * (mean - lowest), mean + others * (highest - mean)]
    draws_RP = np.random.default_rng(seed).multinomial(personas, np.full(personas, 1 / personas), RESAMPLES)
    ratio_R = (draws_RP @ total_P) / (draws_RP @ count_P)
    from scipy.special import stdtrit  # quantile of Student's t

    widened = math.sqrt(personas / (personas - 1)) * float(stdtrit(personas - 1, 0.975))
    tail = NormalDist().cdf(-widened)
    return [float(edge) for edge in np.quantile(ratio_R, [tail, 1 - tail])]
