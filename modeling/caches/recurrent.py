"""The cache of a recurrent decoder: the state of each of its layers, whatever the length of what it has read."""

from typing import Any

import torch
from transformers.cache_utils import Cache

from .base import StatesCacheLayer


class LSTMStateLayer(StatesCacheLayer):
    """The state of one layer, under the names that transformers' offloading and reordering know.

    `keys` is the hidden state and `values` the cell, (batch, hidden) each. An earlier state is not kept, so the layer
    cannot be cropped, and assisted decoding is not possible.
    """

    is_croppable = False

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, num_new_tokens: int = 1, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Replaces the state by that after `num_new_tokens` more positions, padding included."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        self.cumulative_length += num_new_tokens
        return key_states, value_states

    def crop(self, tokens_to_remove: int) -> None:
        """Raises a `ValueError` unless `tokens_to_remove` is 0."""
        if tokens_to_remove:
            raise ValueError(f"tokens_to_remove={tokens_to_remove} must be 0: an LSTM does not keep its past states.")


class TrineRecurrentCache(Cache):
    """One `LSTMStateLayer` for each layer of the decoder.

    Args:
        num_layers: Number of layers.
    """

    def __init__(self, num_layers: int):
        super().__init__(layers=[LSTMStateLayer() for _ in range(num_layers)])

    def get_state(self, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Hidden state and cell of a layer, (batch, hidden) each, or None before the first token."""
        layer: Any = self.layers[layer_idx]
        return (layer.keys, layer.values) if layer.is_initialized else None
