"""Windows of series for training and scoring, split by time."""

# Shapes: T steps of a series, L steps of a context, P steps of a future, C channels.

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Series:
    """Channels that were observed at the same steps.

    Attributes:
        values: (T, C) in float64, NaN where nothing was observed.
        name: What tells it from others.
        times: What the steps are called, (T,), or None.
    """

    values: np.ndarray
    name: str = ""
    times: Sequence[Any] | None = None
    differences: dict[int, np.ndarray] = field(default_factory=dict, compare=False)

    def seasonal_difference(self, season: int, end: int) -> np.ndarray:
        """The mean absolute difference of values one season apart, (C,), within the first `end` steps; 1 for none.

        It is what MASE divides by (Hyndman and Koehler 2006).
        """
        known = self.values[:end]
        apart = np.abs(known[season:] - known[:-season])
        counts = np.isfinite(apart).sum(0)
        means = np.nansum(apart, 0) / np.maximum(counts, 1)
        return np.where(means > 0, means, 1.0)


def split_by_time(series: Series, validation_fraction: float, test_fraction: float) -> tuple[int, int]:
    """The steps at which validation and test begin; the last shares of the steps are theirs."""
    steps = len(series.values)
    test = steps - round(steps * test_fraction)
    return test - round(steps * validation_fraction), test


class Windows(Dataset):
    """Contexts and futures of series as what `TrineForTimeSeriesPrediction` reads; contexts may begin earlier.

    Contexts that would begin before a series are filled up with steps that were not observed. Windows whose past or
    future holds no value at all are left out.

    Args:
        series: What windows are cut out of.
        spans: For each series, the first step of the futures and the step after their last.
        context_length: L.
        prediction_length: P.
        stride: Steps from one window to the next.
        scales: For each series, what errors are divided by, (C,).
        shortest: The fewest steps of a context that a future is taken from.
    """

    def __init__(
        self,
        series: Sequence[Series],
        spans: Sequence[tuple[int, int]],
        context_length: int,
        prediction_length: int,
        stride: int,
        scales: Sequence[np.ndarray],
        shortest: int = 1,
    ):
        self.series, self.scales = series, scales
        self.context_length, self.prediction_length = context_length, prediction_length
        self.places = [
            (number, start)
            for number, (each, (first, last)) in enumerate(zip(series, spans, strict=True))
            for start in range(
                max(first, min(shortest, last - prediction_length)), last - prediction_length + 1, stride
            )
            if start > 0
            and np.isfinite(each.values[max(0, start - context_length) : start]).any()
            and np.isfinite(each.values[start : start + prediction_length]).any()
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, start = self.places[index]
        values = self.series[number].values
        past, seen = context(values[:start], self.context_length)
        future = torch.from_numpy(values[start : start + self.prediction_length])
        known = future.isfinite()
        return {
            "past_values": past,
            "past_observed_mask": seen,
            "future_values": torch.where(known, future, 0.0).to(torch.float32),
            "future_observed_mask": known.to(torch.float32),
            "loss_scale": torch.from_numpy(self.scales[number])[None].to(torch.float32),
        }


def context(values: np.ndarray, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The last `length` steps (L, C) of values (T, C) in float32, zeros for what is missing, and a mask."""
    last = torch.full((length, values.shape[1]), torch.nan, dtype=torch.float64)
    taken = torch.from_numpy(values[-length:])
    last[length - len(taken) :] = taken
    seen = last.isfinite()
    return torch.where(seen, last, 0.0).to(torch.float32), seen.to(torch.float32)


def seasonal_naive(values: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """The forecast (P, C) that the last season comes again; of a missing value the one a season earlier.

    Where no season holds a value, the mean of all values stands.
    """
    steps = len(values)
    found = np.full((horizon, values.shape[1]), np.nan)
    for ahead in range(horizon):
        place = steps + ahead - season * (ahead // season + 1)
        while place >= 0 and np.isnan(found[ahead]).any():
            found[ahead] = np.where(np.isnan(found[ahead]), values[place], found[ahead])
            place -= season
    counts = np.isfinite(values).sum(0)
    return np.where(np.isnan(found), np.nansum(values, 0) / np.maximum(counts, 1), found)
