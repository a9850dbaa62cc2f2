"""Intervals of means, beside the closed form for many examples."""

import numpy as np
import pytest

from trine.training import bootstrap_interval, resampled_interval


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


def test_the_interval_of_a_ratio_is_that_of_the_delta_method():
    generator = np.random.default_rng(2)
    above, below = generator.exponential(size=(2, 4000)) + 1
    ratio = above.mean() / below.mean()
    error = (above - ratio * below).std() / below.mean() / np.sqrt(len(above))
    low, high = resampled_interval(lambda counts: (counts @ above) / (counts @ below), 4000, confidence=0.9)
    assert (low, high) == pytest.approx((ratio - 1.645 * error, ratio + 1.645 * error), abs=0.15 * error)


def test_every_example_is_drawn_as_often_as_the_others():
    drawn = []
    resampled_interval(lambda counts: drawn.append(counts) or 0.0, 5, samples=4000)
    assert (np.sum(drawn, axis=1) == 5).all()
    assert np.mean(drawn, axis=0) == pytest.approx([1] * 5, abs=0.06)
