"""Patches in the stream: what every model shares whose patches lie on a grid."""

# Shapes: B batch, N patches of an item, P features of a patch, T learned tokens before the patches, H hidden,
# L = T + N tokens of an item.

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from ...configuration.configuration_trine import TrineConfig
from ..checks.ids import has_shape
from ..initialization import fill_
from ..positions.base import PositionEncoding
from ..positions.table import POSITIONS
from .grids import GRID_POSITIONS, grid_coordinates, learned_grid, sinusoidal_grid


Grid = tuple[int, int]  # rows and columns of patches


class GridPatches(nn.Module):
    """A linear map of patches on a grid into the stream, after learned tokens; it stands where `embed_tokens` does.

    A subclass cuts the patches: `cut` and `grid_of`. Learned and sinusoidal positions are added here, rotary ones are
    made of `coordinates`; a bias (`relative`) counts patches row by row.

    Args:
        config: The architecture.
        features: Numbers in a patch, P.
        grid: Rows and columns that learned positions are made for.
    """

    name: str  # the argument of a forward pass that is read

    def __init__(self, config: TrineConfig, features: int, grid: Grid):
        super().__init__()
        fields: Any = config
        self.config = config
        self.grid = grid
        self.position_type = config.position_type
        self.num_prefix_tokens = int(fields.use_cls_token) + fields.num_register_tokens
        self.projection = nn.Linear(features, config.hidden_size)
        self.cls_token = self.register_tokens = self.mask_token = self.position_embeddings = None
        if fields.use_cls_token:
            self.cls_token = nn.Parameter(torch.empty(config.hidden_size))
        if fields.num_register_tokens:
            self.register_tokens = nn.Parameter(torch.empty(fields.num_register_tokens, config.hidden_size))
        if fields.use_mask_token:
            self.mask_token = nn.Parameter(torch.empty(config.hidden_size))
        if config.position_type == "learned":
            places = int(fields.use_cls_token) + grid[0] * grid[1]
            self.position_embeddings = nn.Parameter(torch.empty(places, config.hidden_size))

    def initialize(self) -> None:
        """Fills the projection as `config.initializer` says, learned vectors with `initializer_range`."""
        fill_(self.projection.weight, self.config)
        if self.mask_token is not None:
            init.zeros_(self.mask_token)
        for vectors in (self.cls_token, self.register_tokens, self.position_embeddings):
            if vectors is not None:
                init.normal_(vectors, mean=0.0, std=self.config.initializer_range)

    def cut(self, values: torch.Tensor) -> torch.Tensor:
        """Cuts a batch of equal sizes into patches, (B, N, P)."""
        raise NotImplementedError

    def grid_of(self, values: torch.Tensor) -> Grid:
        """Rows and columns of the patches of a batch; raises a `ValueError` where its shape does not fit."""
        raise NotImplementedError

    def items(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Each of several items as a batch of one."""
        return [item[None] for item in values]

    def forward(
        self, values: torch.Tensor | Sequence[torch.Tensor], bool_masked_pos: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embeds a batch as (B, L, H); a list of items of any sizes as one row, (1, sum of L, H).

        Args:
            values: What `cut` cuts, or a list of such without the first dimension.
            bool_masked_pos: True for a patch that the mask token takes the place of, (B, N); of a list, (1, sum of N).
        """
        if isinstance(values, torch.Tensor):
            return self.complete(self.embed(self.cut(values), bool_masked_pos), self.grid_of(values))
        batches = self.items(values)
        grids = [self.grid_of(batch) for batch in batches]
        patches = self.embed(torch.cat([self.cut(batch) for batch in batches], dim=1), bool_masked_pos)
        parts = patches.split([rows * columns for rows, columns in grids], dim=1)
        return torch.cat([self.complete(part, grid) for part, grid in zip(parts, grids, strict=True)], dim=1)

    def embed(self, patches: torch.Tensor, bool_masked_pos: torch.Tensor | None) -> torch.Tensor:
        """Maps patches (B, N, P) to (B, N, H), those that are hidden to the mask token."""
        states = self.projection(patches.to(self.projection.weight.dtype))
        if bool_masked_pos is None:
            return states
        if self.mask_token is None:
            raise ValueError("bool_masked_pos is given, but use_mask_token=False: the model has no mask token.")
        if not has_shape(bool_masked_pos, states.shape[:2]):
            raise ValueError(
                f"bool_masked_pos has shape {tuple(bool_masked_pos.shape)}, but {self.name} has "
                f"{tuple(states.shape[:2])} patches."
            )
        hidden = bool_masked_pos.to(device=states.device, dtype=torch.bool)[..., None]
        return torch.where(hidden, self.mask_token.to(states.dtype), states)

    def complete(self, states: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Adds positions to patches (B, N, H), and puts the learned tokens before them: (B, L, H)."""
        first = self.cls_token
        if self.position_embeddings is not None:
            table = self.position_embeddings
            if first is not None:
                first, table = first + table[0], table[1:]
            states = states + learned_grid(table, self.grid, grid)
        elif self.position_type == "sinusoidal":
            states = states + sinusoidal_grid(states.shape[-1], grid, states.device, states.dtype)
        prefix = [] if first is None else [first[None]]
        prefix += [] if self.register_tokens is None else [self.register_tokens]
        prefix = [tokens.to(states.dtype).expand(states.shape[0], -1, -1) for tokens in prefix]
        return torch.cat([*prefix, states], dim=1) if prefix else states

    def coordinates(self, values: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """Row and column of each token, (1, L, 2), zeros for the learned ones; of a list, (1, sum of L, 2)."""
        batches = [values] if isinstance(values, torch.Tensor) else self.items(values)
        device = self.projection.weight.device
        prefix = torch.zeros((self.num_prefix_tokens, 2), dtype=torch.long, device=device)
        return torch.cat([x for batch in batches for x in (prefix, grid_coordinates(self.grid_of(batch), device))])[
            None
        ]

    def packed_positions(self, values: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Positions (1, sum of L) that begin again with each item of a list; None for a batch of equal sizes."""
        if isinstance(values, torch.Tensor):
            return None
        lengths = [self.num_prefix_tokens + rows * columns for rows, columns in map(self.grid_of, self.items(values))]
        device = self.projection.weight.device
        return torch.cat([torch.arange(length, device=device) for length in lengths])[None]


def cut_squares(values: torch.Tensor, grid: Grid, size: int) -> torch.Tensor:
    """Cuts (B, C, Y, X) into squares, row by row: (B, N, C * size * size)."""
    rows, columns = grid
    squares = values.reshape(values.shape[0], values.shape[1], rows, size, columns, size)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(values.shape[0], rows * columns, -1)


def grid_positions(config: TrineConfig) -> PositionEncoding:
    """The part of positions on a grid that acts in the layers: rotations, a bias, or nothing where they are added."""
    if config.position_type in GRID_POSITIONS:
        return GRID_POSITIONS[config.position_type](config)
    if config.position_type in ("learned", "sinusoidal"):
        return PositionEncoding(config)
    return POSITIONS[config.position_type](config)
