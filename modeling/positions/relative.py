"""A learned bias on the attention scores for every bucket of distances."""

import math

import torch
from torch import nn

from ...configuration.configuration_trine import TrineConfig
from .biased import PositionBias


class RelativeEncoding(PositionBias):
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
        buckets = self.buckets(key_positions[None, :] - query_positions[:, None])
        return self.relative_attention_bias(buckets).permute(2, 0, 1)[None]
