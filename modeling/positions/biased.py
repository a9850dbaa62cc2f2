"""The base of position encodings that bias the scores of pairs of tokens."""

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache

from .base import PositionEncoding


class PositionBias(PositionEncoding):
    """A bias on the scores of every pair of a query and a key, the same for all layers. A subclass says which.

    It acts on attention to pairs of tokens only.
    """

    def bias(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """The bias (1, heads, Q, K), in the dtype of the model.

        Args:
            query_positions: Indices (Q,) of the queries.
            key_positions: Those of the keys, (K,). Only distances mean something: both may begin anywhere, as padding
                counts.
        """
        raise NotImplementedError

    def biases(
        self, length: int, device: torch.device, past_key_values: Cache | None, layer_types: Sequence[str]
    ) -> dict[str, torch.Tensor | None]:
        found: dict[str, torch.Tensor | None] = {}
        for index, layer_type in enumerate(layer_types):
            if layer_type not in found:
                found[layer_type] = self.bias(*relative_indices(length, device, past_key_values, index))
        return found


def relative_indices(
    length: int, device: torch.device, past_key_values: Cache | None, layer_idx: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (Q,) of the queries and (K,) of the keys that a layer attends to, as its cache will hold them."""
    query_offset, num_keys, key_offset = 0, length, 0
    if past_key_values is not None:
        query_offset = past_key_values.get_query_offset(layer_idx)
        num_keys, key_offset = past_key_values.get_mask_sizes(length, layer_idx)
    return torch.arange(length, device=device) + query_offset, torch.arange(num_keys, device=device) + key_offset
