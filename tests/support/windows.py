"""Small models of series, and windows of waves."""

import torch
from support.tiny import tiny_config, tiny_model

from trine import TrineModel


SERIES = {
    "input_type": "series",
    "is_causal": False,
    "context_length": 22,
    "prediction_length": 5,
    "num_input_channels": 3,
    "patch_length": 6,
    "patch_stride": 3,
}


def series_config(**fields):
    return tiny_config(**{**SERIES, **fields})


def series_model(model_class=TrineModel, **fields):
    """An evaluation-mode model of series with random parameters, in float64 unless told otherwise."""
    return tiny_model(model_class, **{**SERIES, **fields})


def waves(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Sines with noise along the second dimension."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.arange(shape[1], dtype=dtype)[:, None]
    phases = torch.rand((shape[0], 1, shape[2]), dtype=dtype, generator=generator)
    return (steps * 0.7 + 6 * phases).sin() * 3 + torch.randn(shape, dtype=dtype, generator=generator) * 0.1 + 10
