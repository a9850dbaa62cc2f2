"""Rotary positions whose parameters depend on the type of the layer."""

from collections.abc import Collection
from copy import copy

import torch
from torch import nn

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig
from .base import PositionEncoding
from .rope import TrineRotaryEmbedding


class LayeredRotaryEncoding(PositionEncoding):
    """One rotary embedding for each layer type, such as slow waves for full attention and fast ones for sliding.

    Source: Gemma Team 2025, arXiv 2503.19786, section 2; Warner et al. 2024, ModernBERT, arXiv 2412.13663.
    """

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.by_type = nn.ModuleDict()
        for layer_type in dict.fromkeys(config.layer_types):
            of_type = copy(config)
            of_type.rope_parameters = config.rope_parameters_of(layer_type)
            self.by_type[layer_type] = TrineRotaryEmbedding(of_type)

    def rotations(
        self, hidden_states: torch.Tensor, position_ids: torch.Tensor, layer_types: Collection[str]
    ) -> dict[str, tuple[torch.Tensor, ...] | None]:
        return {name: embedding.rotate(hidden_states, position_ids) for name, embedding in self.by_type.items()}  # pyright: ignore[reportCallIssue] a module of that class


ROTARIES = Choices("has_layered_rope", {False: TrineRotaryEmbedding, True: LayeredRotaryEncoding})


def make_rotary(config: TrineConfig) -> PositionEncoding:
    """Builds the rotary positions that `config.rope_parameters` describes."""
    return ROTARIES[config.has_layered_rope](config)
