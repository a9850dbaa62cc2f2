"""Attention to pairs of tokens, whose scores have a learned temperature for each head."""

import torch
from torch import nn

from trine import KindField, PairwiseAttention, register_attention


@register_attention("start", fields={"start_temperature": KindField(1.0, "Where temperatures begin.", above=0)})
class Start(PairwiseAttention):
    """Softmax attention with a learned temperature. Override `scores`, `weights` or `mix`; leave out the others."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.temperature = nn.Parameter(torch.empty(config.num_attention_heads, 1, 1))

    def initialize(self):
        """Fills what `__init__` makes: models are made without memory, which comes later."""
        super().initialize()
        nn.init.constant_(self.temperature, self.config.start_temperature)

    def scores(self, query, key):
        """Maps queries (batch, heads, queries, head size) and keys (batch, heads, keys, head size) to scores."""
        return super().scores(query, key) * self.temperature

    def weights(self, scores, visible):
        """Maps scores (batch, heads, queries, keys) to weights, which are 0 where `visible` is False."""
        return super().weights(scores, visible)
