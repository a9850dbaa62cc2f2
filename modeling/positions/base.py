"""The interface of position encodings: they add to embeddings, rotate queries and keys, or bias attention scores."""

from collections.abc import Collection, Sequence

import torch
from torch import nn
from transformers.cache_utils import Cache

from ...configuration.configuration_trine import TrineConfig


class PositionEncoding(nn.Module):
    """The encoding `none`, and the base of all others, each of which overrides one of its methods.

    A decoder without any encoding still learns order from its causal mask.
    Source: Haviv et al. 2022, arXiv 2203.16634.
    """

    def __init__(self, config: TrineConfig):
        super().__init__()

    def add_to(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings (batch, length, hidden) with the positions (batch or 1, length) added."""
        return inputs_embeds

    def rotate(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        """Returns cosines and sines (batch or 1, 1, length, rotated size) for queries and keys, or None."""
        return None

    def rotations(
        self, hidden_states: torch.Tensor, position_ids: torch.Tensor, layer_types: Collection[str]
    ) -> dict[str, tuple[torch.Tensor, ...] | None]:
        """Returns the result of `rotate` for each layer type; the same for all, unless an encoding overrides it."""
        return dict.fromkeys(layer_types, self.rotate(hidden_states, position_ids))

    def biases(
        self, length: int, device: torch.device, past_key_values: Cache | None, layer_types: Sequence[str]
    ) -> dict[str, torch.Tensor | None]:
        """The bias on the scores of each layer type, (1, heads, queries, keys), or None without one.

        Args:
            length: Number of queries, which are the last tokens.
            past_key_values: The cache, which knows how many keys there are.
            layer_types: Type of each layer.
        """
        return dict.fromkeys(layer_types)
