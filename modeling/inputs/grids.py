"""Positions of patches on a grid of rows and columns: learned with interpolation, sinusoidal, rotary."""

# Shapes: B batch, N patches of an image, R rows, C columns, H hidden.

import math
from typing import Any

import torch
from torch import nn

from ...configuration.choices import Choices
from ..positions.rope import TrineRotaryEmbedding


def learned_grid(table: torch.Tensor, own: tuple[int, int], wanted: tuple[int, int]) -> torch.Tensor:
    """The learned vectors of a grid, (R * C, H); those of another size are interpolated bicubically.

    Source: Dosovitskiy et al. 2020, ViT, arXiv 2010.11929, section 3.2; transformers' `interpolate_pos_encoding`.

    Args:
        table: Learned vectors (own rows * own columns, H).
        own: Rows and columns of the table.
        wanted: Rows and columns of the image.
    """
    if own == wanted:
        return table
    grid = table.T.reshape(1, -1, *own)
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    grid = nn.functional.interpolate(grid, size=wanted, mode="bicubic", align_corners=False)
    return grid.flatten(2)[0].T.to(table.dtype)


def sinusoidal_grid(size: int, wanted: tuple[int, int], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Fixed waves of a grid, (R * C, size): the first half of the features is of the row, the other of the column.

    Within a half, feature 2i of place p is `sin(p / 10000^(2i/d))`, feature 2i + 1 the cosine, d being half of `size`.
    Source: He et al. 2021, MAE, arXiv 2111.06377, as released, with Vaswani's order of sines and cosines.
    """
    half, exact = size // 2, torch.promote_types(dtype, torch.float32)
    frequencies = torch.exp(torch.arange(0, half, 2, device=device, dtype=exact) * (-math.log(10000.0) / half))
    waves = []
    for places in grid_coordinates(wanted, device).to(exact).unbind(dim=-1):
        angles = places[:, None] * frequencies
        waves.append(torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2))
    return torch.cat(waves, dim=-1).to(dtype)


def grid_coordinates(wanted: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Row and column of each patch, (R * C, 2), row by row."""
    rows, columns = (torch.arange(size, device=device) for size in wanted)
    return torch.cartesian_prod(rows, columns)


class GridRotaryEmbedding(TrineRotaryEmbedding):
    """Cosines and sines that turn the first half of a head's pairs by the row, the other half by the column.

    Learned tokens before the patches are not turned. Scores depend on differences of rows and of columns only.
    Source: Heo et al. 2024, Rotary position embedding for vision transformer, arXiv 2403.13298, the axial variant.
    """

    reads_coordinates = True  # in place of positions

    @staticmethod
    def compute_default_rope_parameters(config: Any, **kwargs) -> tuple[torch.Tensor, float]:
        """Returns the inverse frequencies (rotated size / 4,) in radians a patch, and the factor on the waves, 1."""
        size = int(config.head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, size, 4, dtype=torch.float) / size
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cosines and sines (B or 1, length, rotated size) of coordinates (B or 1, length, 2)."""
        frequencies = self.inv_freq.to(device=hidden_states.device, dtype=torch.float)
        angles = (position_ids[..., None].float() * frequencies).flatten(-2)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(hidden_states.dtype), angles.sin().to(hidden_states.dtype)


GRID_POSITIONS = Choices("position_type", {"rope": GridRotaryEmbedding})
