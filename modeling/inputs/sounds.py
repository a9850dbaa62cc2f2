"""Sounds: squares of a log-mel spectrogram, each of which is a token."""

# Shapes: B batch, F frames, M mel bands, S size of a patch, N patches.

from typing import Any

import torch
from torch import nn

from ...configuration.configuration_trine import TrineConfig
from ..positions.base import PositionEncoding
from .patches import Grid, GridPatches, cut_squares, grid_positions


class SpectrogramPatches(GridPatches):
    """Maps spectrograms (B, F, M) of any length to one vector for each patch of S bands and S frames.

    Rows of the grid are bands, from the lowest on, columns are time. A list of spectrograms (F, M) of different
    lengths becomes one row without padding.
    Source: Gong et al. 2021, AST, arXiv 2104.01778, without overlap of patches.
    """

    name = "input_values"

    def __init__(self, config: TrineConfig):
        fields: Any = config
        size = fields.patch_size
        super().__init__(config, size**2, (fields.num_mel_bins // size, fields.num_frames // size))
        self.patch_size, self.num_mel_bins = size, fields.num_mel_bins

    def cut(self, values: torch.Tensor) -> torch.Tensor:
        return cut_squares(values.mT[:, None], self.grid_of(values), self.patch_size)

    def grid_of(self, values: torch.Tensor) -> Grid:
        check_spectrograms(values, self.num_mel_bins, self.patch_size)
        return self.num_mel_bins // self.patch_size, values.shape[1] // self.patch_size


def check_spectrograms(values: torch.Tensor, num_mel_bins: int, patch_size: int) -> None:
    """Raises a `ValueError` for spectrograms of another shape, or whose length is not a whole number of patches."""
    if values.ndim != 3 or values.shape[2] != num_mel_bins:
        raise ValueError(
            f"input_values have shape {tuple(values.shape)}, but must have (batch, frames, num_mel_bins="
            f"{num_mel_bins}), or be a list of spectrograms (frames, bands). `log_mel` and transformers' "
            "ASTFeatureExtractor make them of a waveform."
        )
    frames = values.shape[1]
    if frames % patch_size or frames == 0:
        raise ValueError(f"input_values have {frames} frames, which is not a multiple of patch_size={patch_size}.")


def make_audio_inputs(config: TrineConfig) -> tuple[nn.Module, PositionEncoding]:
    """The patches of spectrograms, and what positions do after them."""
    return SpectrogramPatches(config), grid_positions(config)
