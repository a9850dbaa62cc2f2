"""Forecasts of a model, the seasonal naive one beside them, and their scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from trine.modeling.heads.series import quantile_levels
from trine.training.data.series import Series, Windows, context, seasonal_naive
from trine.training.measures.forecasts import scores_of_windows
from trine.training.measures.intervals import bootstrap_interval


@torch.no_grad()
def predict_windows(model: Any, windows: Windows, batch_size: int = 64) -> np.ndarray:
    """The forecasts of windows, (W, P, C, Q); Q is 1 for a model without quantiles."""
    found = []
    model.eval()
    for batch in DataLoader(windows, batch_size=batch_size):
        read = {name: batch[name].to(model.device) for name in ("past_values", "past_observed_mask")}
        outputs = model(**read)
        quantiles = getattr(outputs, "quantile_predictions", None)
        predicted = outputs.prediction_outputs[..., None] if quantiles is None else quantiles
        found.append(predicted.float().cpu().numpy())
    return np.concatenate(found)


def levels_of(config: Any) -> list[float]:
    """The levels of a model's quantiles; none where it predicts one value."""
    return quantile_levels(config.num_quantiles).tolist() if getattr(config, "loss", "") == "quantile" else []


def score(predicted: np.ndarray, windows: Windows, levels: Sequence[float] = ()) -> dict[str, np.ndarray]:
    """The scores of forecasts (W, P, C, Q) for each window; see `scores_of_windows`."""
    future = np.stack([part(windows, index) for index in range(len(windows))])
    scales = np.stack([windows.scales[number] for number, _ in windows.places])
    return scores_of_windows(predicted, future, scales, levels)


def part(windows: Windows, index: int) -> np.ndarray:
    """The future of a window (P, C), NaN where nothing was observed."""
    number, start = windows.places[index]
    return windows.series[number].values[start : start + windows.prediction_length]


def predict_naively(windows: Windows, season: int) -> np.ndarray:
    """The seasonal naive forecasts of windows, (W, P, C, 1)."""
    return np.stack(
        [
            seasonal_naive(windows.series[number].values[:start], season, windows.prediction_length)[..., None]
            for number, start in windows.places
        ]
    )


def summarise(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over windows, and the 95 % bootstrap interval of MASE."""
    low, high = bootstrap_interval(scores["mase"])
    return {**{name: float(values.mean()) for name, values in scores.items()}, "mase_low": low, "mase_high": high}


@torch.no_grad()
def forecast(model: Any, series: Series) -> np.ndarray:
    """The next steps of a series as the model forecasts them, (P, C, Q)."""
    past, seen = context(series.values, model.config.context_length)
    outputs = model.eval()(past_values=past[None].to(model.device), past_observed_mask=seen[None].to(model.device))
    quantiles = outputs.quantile_predictions
    predicted = outputs.prediction_outputs[..., None] if quantiles is None else quantiles
    return predicted[0].float().cpu().numpy()


def draw_forecast(
    past: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: Path, future: np.ndarray | None = None
) -> None:
    """A panel for each channel, four at most, as PNG: the past (L, C), forecasts (P, C, Q), and what came (P, C)."""
    from matplotlib.figure import Figure

    shown = min(4, past.shape[1])
    figure = Figure(figsize=(9, 1 + 2.2 * shown), layout="constrained")
    before, after = np.arange(-len(past), 0), np.arange(len(predicted))
    for channel in range(shown):
        axes = figure.add_subplot(shown, 1, channel + 1, ylabel=names[channel])
        axes.plot(before, past[:, channel], color="C0", label="past")
        if future is not None:
            axes.plot(after, future[:, channel], color="C0", linestyle=":", label="what came")
        axes.plot(after, predicted[:, channel, predicted.shape[-1] // 2], color="C1", label="forecast")
        if predicted.shape[-1] > 1:
            edges = predicted[:, channel, 0], predicted[:, channel, -1]
            axes.fill_between(after, *edges, color="C1", alpha=0.25, label="first to last quantile")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper left")
    axes.set_xlabel("steps from the end of what is read")
    figure.savefig(path, dpi=120)
