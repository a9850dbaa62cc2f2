"""Intervals of means, and of other statistics, by the bootstrap."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def bootstrap_interval(
    values: ArrayLike,
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
    weights: ArrayLike | None = None,
) -> tuple[float, float]:
    """The ends of the bootstrap's percentile interval of a mean (Efron 1979).

    Of the differences between two models on the same examples, it says whether one is better.

    Args:
        values: One for each example (N,).
        confidence: Share of the means of examples drawn anew, with replacement, that lie within.
        weights: What each example counts in the mean (N,); all alike by default.
    """
    values = np.asarray(values, dtype=float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    generator = np.random.default_rng(seed)
    drawn = (generator.choice(len(values), len(values)) for _ in range(samples))
    means = [np.average(values[rows], weights=weights[rows]) for rows in drawn]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def resampled_interval(
    statistic: Callable[[np.ndarray], float], size: int, confidence: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The ends of the bootstrap's percentile interval of any statistic of a test set, such as BLEU.

    Of the difference between two systems on the same examples, this is the paired bootstrap.
    Source: Koehn 2004, Statistical significance tests for machine translation evaluation.

    Args:
        statistic: Of how often each example was drawn (size,), which sums to `size`.
        size: Number of examples.
        confidence: Share of the statistics of examples drawn anew, with replacement, that lie within.
    """
    counts = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), samples)
    values = [statistic(drawn) for drawn in counts]
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
