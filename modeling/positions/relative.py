"""A learned bias on the attention scores for every bucket of distances."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers.cache_utils import Cache

from ...configuration.configuration_trine import TrineConfig
from .base import PositionEncoding


class RelativeEncoding(PositionEncoding):
    """T5's relative positions: near distances have a bucket each, farther ones share buckets of growing width.

    One bias a head, shared by all layers. In an encoder half of the buckets serve keys after the query.
    Source: Raffel et al. 2019, arXiv 1910.10683, section 2.1.
    """

    def __init__(self, config: TrineConfig):
        super().__init__(config)
        self.is_causal = config.is_causal
        self.num_buckets = config.relative_attention_num_buckets
        self.max_distance = config.relative_attention_max_distance
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)

    def buckets(self, distances: torch.Tensor) -> torch.Tensor:
        """Maps distances, key index minus query index, to buckets. Same shape, integers."""
        num_buckets = self.num_buckets
        offset = torch.zeros_like(distances)
        if self.is_causal:
            distances = (-distances).clamp(min=0)
        else:
            num_buckets //= 2
            offset = (distances > 0).long() * num_buckets
            distances = distances.abs()
        num_exact = num_buckets // 2
        # In the order of the original, whose rounding decides where a border between buckets is a whole number.
        share = torch.log(distances.clamp(min=1).float() / num_exact) / math.log(self.max_distance / num_exact)
        far = (num_exact + (share * (num_buckets - num_exact)).long()).clamp(max=num_buckets - 1)
        return offset + torch.where(distances < num_exact, distances, far)

    def bias(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """The bias (1, heads, Q, K) for query positions (Q,) and key positions (K,)."""
        buckets = self.buckets(key_positions[None, :] - query_positions[:, None])
        return self.relative_attention_bias(buckets).permute(2, 0, 1)[None]

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
