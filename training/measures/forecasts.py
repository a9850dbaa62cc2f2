"""Scores of forecasts: MASE, sMAPE, the CRPS by quantiles, and how often an interval holds the value."""

# Shapes: W windows, P steps, C channels, Q quantiles.

from collections.abc import Sequence

import numpy as np


def scores_of_windows(
    predicted: np.ndarray, future: np.ndarray, scales: np.ndarray, levels: Sequence[float] = ()
) -> dict[str, np.ndarray]:
    """Scores of each window, (W,), means over its steps and channels where the future was observed.

    `mase`: absolute errors of the median over the mean absolute seasonal difference of the training part (Hyndman and
    Koehler 2006). `smape`: 200 |y - f| / (|y| + |f|), in per cent. `crps`: twice the pinball losses, their mean over
    the levels, divided as for MASE; of a single forecast its absolute error. `coverage`: the share of values between
    the first and the last quantile, with several levels.

    Args:
        predicted: (W, P, C, Q), ascending quantiles; Q is 1 for a single forecast.
        future: (W, P, C), NaN where nothing was observed.
        scales: (W, C).
        levels: The Q levels; none for a single forecast.
    """
    median = predicted[..., predicted.shape[-1] // 2]
    errors, units = np.abs(future - median), scales[:, None]
    sizes = np.abs(future) + np.abs(median)
    found = {
        "mase": errors / units,
        "smape": 200 * errors / np.where(sizes > 0, sizes, 1.0),
        "crps": errors / units,
    }
    if levels:
        above, each = future[..., None] - predicted, np.asarray(levels)
        found["crps"] = 2 * np.maximum(each * above, (each - 1) * above).mean(-1) / units
        inside = (future >= predicted[..., 0]) & (future <= predicted[..., -1])
        found["coverage"] = np.where(np.isnan(future), np.nan, inside)
    return {name: np.nanmean(values, axis=(1, 2)) for name, values in found.items()}
