"""The cache of a recurrent decoder: the state of each of its layers, whatever the length of what it has read."""

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class LSTMStateLayer(CacheLayerMixin):
    """The state of one layer, under the names that transformers' offloading and reordering know.

    `keys` is the hidden state and `values` the cell, (batch, hidden) each. An earlier state is not kept, so the layer
    cannot be cropped, and assisted decoding is not possible.
    """

    is_croppable = False
    is_compileable = False
    supports_early_init = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cumulative_length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Notes dtype and device of the first state."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, num_new_tokens: int = 1, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Replaces the state by that after `num_new_tokens` more positions, padding included."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        self.cumulative_length += num_new_tokens
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of tokens with `query_length` new ones, and the offset of the first, 0."""
        return self.cumulative_length + query_length, 0

    def get_seq_length(self) -> int:
        """Number of tokens that were read."""
        return self.cumulative_length

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        super().reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Raises a `ValueError` unless `tokens_to_remove` is 0."""
        if tokens_to_remove:
            raise ValueError(f"tokens_to_remove={tokens_to_remove} must be 0: an LSTM does not keep its past states.")

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row `repeats` times."""
        if self.keys is not None and self.values is not None:
            self.keys = self.keys.repeat_interleave(repeats, dim=0)
            self.values = self.values.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps some rows."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[indices], self.values[indices]


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
