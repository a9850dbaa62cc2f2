"""Pooling by attention: a learned query reads all tokens of an image."""

# Shapes: B rows of a batch, N tokens in a row, S images (as many as rows, unless one row packs several), H hidden.

import torch
from torch import nn
from transformers import initialization as init

from ..configuration.configuration_trine import TrineConfig
from .attention.cross import CrossAttention
from .feed_forward.mlp import make_mlp
from .norms import make_norm


class AttentionPooling(nn.Module):
    """`y + mlp(norm(y))`, (S, H), where y is what the attention of a learned query to all tokens of an image reads.

    Cost O(N) for each image; one row of several images costs O(S * N).
    Source: Zhai et al. 2021, Scaling vision transformers, arXiv 2106.04560, section 3.3; Lee et al. 2018, Set
    transformer, arXiv 1810.00825, section 3.2.
    """

    def __init__(self, config: TrineConfig):
        super().__init__()
        self.config = config
        self.probe = nn.Parameter(torch.empty(config.hidden_size))
        self.attention = CrossAttention(config, 0)
        self.layernorm = make_norm(config, config.hidden_size)
        self.mlp = make_mlp(config)

    def initialize(self) -> None:
        """Fills the query with `initializer_range`."""
        init.normal_(self.probe, mean=0.0, std=self.config.initializer_range)

    def forward(self, states: torch.Tensor, masks: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """As of `ClassTokenPooling`."""
        is_packed = len(masks) != len(states)
        rows = states.expand(len(masks), -1, -1)
        seen = masks[:, None, None].bool() if is_packed else None
        pooled, _ = self.attention(self.probe.to(states.dtype).expand(len(masks), 1, -1), rows, seen)
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]
