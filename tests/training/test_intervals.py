"""Intervals of means, beside the closed form for many examples."""

import numpy as np
import pytest

from trine.training import bootstrap_interval


def test_the_interval_is_that_of_the_normal_distribution_for_many_examples():
    values = np.random.default_rng(1).exponential(size=4000)
    error = values.std() / np.sqrt(len(values))
    low, high = bootstrap_interval(values, confidence=0.9, samples=4000)
    assert (low, high) == pytest.approx(
        (values.mean() - 1.645 * error, values.mean() + 1.645 * error), abs=0.1 * error
    )


def test_equal_values_have_no_spread_and_seeds_repeat():
    assert bootstrap_interval([0.5] * 7) == (0.5, 0.5)
    assert bootstrap_interval([0, 1, 1], seed=3) == bootstrap_interval([0, 1, 1], seed=3)
