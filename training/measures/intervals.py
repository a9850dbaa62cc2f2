"""Intervals of means by the bootstrap."""

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
