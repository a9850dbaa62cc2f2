"""Sigmoid attention, whose bias and temperature each head learns."""

import torch
from torch import nn

from trine import KindField, PairwiseAttention, register_attention


@register_attention(
    "sigmoid",
    fields={"sigmoid_bias": KindField(-4.0, "Where each bias begins: about -log(length).", maximum=0)},
    source="Ramapuram et al. 2024, arXiv 2409.04431",
)
class SigmoidAttention(PairwiseAttention):
    """Weights are sigmoids of the scores, each for itself: they need not sum to 1."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.bias = nn.Parameter(torch.empty(config.num_attention_heads, 1, 1))
        self.log_temperature = nn.Parameter(torch.empty(config.num_attention_heads, 1, 1))

    def initialize(self):
        super().initialize()
        nn.init.constant_(self.bias, self.config.sigmoid_bias)
        nn.init.zeros_(self.log_temperature)

    def weights(self, scores, visible):
        weights = (scores / self.log_temperature.exp() + self.bias).sigmoid()
        return weights if visible is None else weights * visible
