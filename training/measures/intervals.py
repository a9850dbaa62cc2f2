"""Intervals of means by the bootstrap."""

import numpy as np
from numpy.typing import ArrayLike


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The ends of the bootstrap's percentile interval of a mean (Efron 1979).

    Of the differences between two models on the same examples, it says whether one is better.

    Args:
        values: One for each example (N,).
        confidence: Share of the means of examples drawn anew, with replacement, that lie within.
    """
    values = np.asarray(values, dtype=float)
    generator = np.random.default_rng(seed)
    means = [generator.choice(values, len(values)).mean() for _ in range(samples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
