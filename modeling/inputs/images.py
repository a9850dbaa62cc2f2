"""Images: squares of pixels, each of which is a token."""

# Shapes: B batch, C channels, Y height and X width in pixels, S size of a patch, N patches.

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_trine import TrineConfig
from ..positions.base import PositionEncoding
from .patches import Grid, GridPatches, cut_squares, grid_positions


class ImagePatches(GridPatches):
    """Maps images (B, C, Y, X) of any size, a multiple of `patch_size`, to one vector for each patch.

    The map is that of a convolution whose kernel and stride are a patch: its weight (hidden, C, S, S), flattened.
    A list of images (C, Y, X) of different sizes becomes one row without padding.
    Source: Dosovitskiy et al. 2020, ViT, arXiv 2010.11929; registers: Darcet et al. 2023, arXiv 2309.16588; masked
    patches: Bao et al. 2021, BEiT, arXiv 2106.08254; mixed sizes: Dehghani et al. 2023, NaViT, arXiv 2307.06304.
    """

    name = "pixel_values"

    def __init__(self, config: TrineConfig):
        fields: Any = config
        self_grid = fields.image_size // fields.patch_size
        super().__init__(config, fields.num_channels * fields.patch_size**2, (self_grid, self_grid))
        self.patch_size, self.num_channels = fields.patch_size, fields.num_channels

    def cut(self, values: torch.Tensor) -> torch.Tensor:
        return cut_squares(values, self.grid_of(values), self.patch_size)

    def grid_of(self, values: torch.Tensor) -> Grid:
        check_images(values, self.num_channels, self.patch_size)
        return values.shape[-2] // self.patch_size, values.shape[-1] // self.patch_size

    def items(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if len(values) == 0:
            raise ValueError("pixel_values=[] holds no image.")
        return super().items(values)


def check_images(values: torch.Tensor, num_channels: int, patch_size: int) -> None:
    """Raises a `ValueError` for images of another shape, or of a size that is not a whole number of patches."""
    if values.ndim != 4 or values.shape[1] != num_channels:
        raise ValueError(
            f"pixel_values have shape {tuple(values.shape)}, but must have (batch, num_channels={num_channels}, "
            "height, width), or be a list of images without the first of these. An image processor makes them: RGBA, "
            "palettes and grey are converted with `image.convert('RGB')`."
        )
    if not values.is_floating_point():
        raise ValueError(
            f"pixel_values are of {values.dtype}, but must be floating-point numbers: an image processor rescales and "
            "normalises them."
        )
    for name, length in zip(("height", "width"), values.shape[-2:], strict=True):
        if length % patch_size or length == 0:
            raise ValueError(
                f"pixel_values have a {name} of {length} pixels, which is not a multiple of patch_size={patch_size}."
            )


def uncut(patches: torch.Tensor, grid: Grid, num_channels: int) -> torch.Tensor:
    """Images (B, C, Y, X) whose patches are (B, N, C * S * S): undoes `ImagePatches.cut`."""
    rows, columns = grid
    size = round((patches.shape[-1] / num_channels) ** 0.5)
    squares = patches.reshape(patches.shape[0], rows, columns, num_channels, size, size)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(patches.shape[0], num_channels, rows * size, columns * size)


def make_image_inputs(config: TrineConfig) -> tuple[nn.Module, PositionEncoding]:
    """The patches of images, and what positions do after them: rotations, a bias, or nothing more."""
    return ImagePatches(config), grid_positions(config)
