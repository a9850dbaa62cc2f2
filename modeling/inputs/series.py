"""Series: windows of steps, each normalised by itself, in patches of some steps, each of which is a token."""

# Shapes: B batch, T steps of a window, C channels (series side by side), S steps of a patch, N patches, H hidden.

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from ..checks.ids import can_look, has_shape
from ..initialization import fill_
from ..positions.base import PositionEncoding
from ..positions.table import POSITIONS


Scaled = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # values (B, T, C), location and scale (B, 1, C)


def scale_by_deviation(values: torch.Tensor, observed: torch.Tensor, minimum: float) -> Scaled:
    """Values minus their mean, over `sqrt(variance + minimum)`, of the steps that were observed."""
    count = observed.sum(dim=1, keepdim=True).clamp(min=1.0)
    mean = (values * observed).sum(dim=1, keepdim=True) / count
    variance = (((values - mean) * observed) ** 2).sum(dim=1, keepdim=True) / count
    scale = (variance + minimum).sqrt()
    return (values - mean) / scale, mean, scale


def scale_by_size(values: torch.Tensor, observed: torch.Tensor, minimum: float) -> Scaled:
    """Values over the mean of their absolute values, of the steps that were observed, which is at least `minimum`."""
    count = observed.sum(dim=1, keepdim=True).clamp(min=1.0)
    scale = ((values * observed).abs().sum(dim=1, keepdim=True) / count).clamp(min=minimum)
    return values / scale, torch.zeros_like(scale), scale


def leave_as_is(values: torch.Tensor, observed: torch.Tensor, minimum: float) -> Scaled:
    """The values, with a location of 0 and a scale of 1."""
    scale = torch.ones_like(values[:, :1])
    return values, torch.zeros_like(scale), scale


SCALINGS: dict[str, Callable[[torch.Tensor, torch.Tensor, float], Scaled]] = Choices(
    "scaling", {"std": scale_by_deviation, "mean": scale_by_size, "none": leave_as_is}
)


class SeriesPatches(nn.Module):
    """Maps windows (B, T, C) to one vector for each patch of each channel, (B * C, N, H).

    Channels are rows of their own, with the same weights: none sees another. Each window is normalised by its own
    steps, and its first steps are left out where patches do not reach them. Steps that are missing count for nothing,
    and are read as the location. Windows have `config.context_length` steps.
    Source: Nie et al. 2023, PatchTST, arXiv 2211.14730; normalisation: Kim et al. 2022, RevIN, without its weights.
    """

    name = "past_values"

    def __init__(self, config: TrineConfig):
        super().__init__()
        fields: Any = config
        self.config = config
        self.steps, self.channels = fields.context_length, fields.num_input_channels
        self.length, self.stride = fields.patch_length, fields.patch_stride
        self.num_patches = (self.steps - self.length) // self.stride + 1
        self.scaling, self.minimum_scale = SCALINGS[fields.scaling], fields.minimum_scale
        self.projection = nn.Linear(self.length, config.hidden_size)

    def initialize(self) -> None:
        """Fills the projection as `config.initializer` says."""
        fill_(self.projection.weight, self.config)

    def scale(self, values: torch.Tensor, past_observed_mask: torch.Tensor | None = None) -> Scaled:
        """Normalised windows (B, T, C), zeros where nothing was observed, and location and scale (B, 1, C).

        They are computed in float32, or in float64 if the values have it.

        Raises:
            ValueError: Values have another shape, or are not finite where they were observed, or the mask has
                another shape.
        """
        check_windows(values, past_observed_mask, self.steps, self.channels)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        observed = torch.ones_like(values) if past_observed_mask is None else past_observed_mask.to(values)
        values = torch.where(observed > 0, values, 0.0)
        scaled, location, scale = self.scaling(values, observed, self.minimum_scale)
        return torch.where(observed > 0, scaled, 0.0), location, scale

    def forward(self, values: torch.Tensor, past_observed_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Embeds windows (B, T, C) as (B * C, N, H).

        Args:
            values: Floating-point or whole numbers; whatever stands where nothing was observed is not read.
            past_observed_mask: 1 for a value that was observed, 0 for one that is missing, (B, T, C). Default: all.
        """
        scaled, _, _ = self.scale(values, past_observed_mask)
        first = self.steps - self.length - self.stride * (self.num_patches - 1)
        patches = scaled[:, first:].unfold(1, self.length, self.stride)  # (B, N, C, S)
        return self.projection(patches.transpose(1, 2).flatten(0, 1).to(self.projection.weight.dtype))

    def packed_positions(self, values: torch.Tensor) -> None:
        """None: windows have one length."""


def check_windows(values: torch.Tensor, observed: torch.Tensor | None, steps: int, channels: int) -> None:
    """Raises a `ValueError` for windows of another shape, a mask of another one, and observed values not finite."""
    if not isinstance(values, torch.Tensor) or not has_shape(values, (len(values), steps, channels)):
        shape = tuple(values.shape) if isinstance(values, torch.Tensor) else f"of a list of {len(values)}"
        raise ValueError(
            f"past_values have shape {shape}, but must have (batch, context_length={steps}, num_input_channels="
            f"{channels}). Shorter series are filled up at their beginning, with zeros in past_observed_mask."
        )
    if observed is not None and not has_shape(observed, values.shape):
        raise ValueError(
            f"past_observed_mask has shape {tuple(observed.shape)}, but past_values have {tuple(values.shape)}."
        )
    if can_look(values):
        wrong = ~values.isfinite() if observed is None else ~values.isfinite() & (observed > 0)
        if wrong.any():
            raise ValueError(
                f"past_values hold {int(wrong.sum())} values that are not finite: mark what is missing by 0 in "
                "past_observed_mask."
            )


def make_series_inputs(config: TrineConfig) -> tuple[nn.Module, PositionEncoding]:
    """The patches of windows, and their positions, which are counted as those of tokens."""
    return SeriesPatches(config), POSITIONS[config.position_type](config)
