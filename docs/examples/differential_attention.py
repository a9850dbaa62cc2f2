"""Differential attention: the difference of two softmax maps, in which what is noise to both cancels."""

# Shapes: B batch, H heads, Q queries, K keys, D head size.

import math

import torch
from torch import nn

from trine import KindField, PairwiseAttention, register_attention


def check_pairs(config):
    """Raises a `ValueError` unless heads can be paired, and their keys and values, too."""
    if config.num_key_value_heads % 2:
        raise ValueError(
            f"num_key_value_heads={config.num_key_value_heads} must be even: differential attention pairs heads."
        )


@register_attention(
    "differential",
    fields={"differential_lambda_std": KindField(0.1, "Standard deviation of the vectors of lambda.", above=0)},
    check=check_pairs,
    source="Ye et al. 2024, arXiv 2410.05258",
)
class DifferentialAttention(PairwiseAttention):
    """Heads h and h + H/2 are one: the map of the first less lambda times that of the second, on the values of both.

    lambda = exp(q1 · k1) - exp(q2 · k2) + lambda_init, of learned vectors that all heads share; lambda_init rises from
    0.2 in the first layer towards 0.8. Outputs are normalised by head, and scaled by 1 - lambda_init.
    """

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer_idx)
        self.lambda_vectors = nn.Parameter(torch.empty(4, self.head_dim))  # q1, k1, q2, k2
        self.head_norm = nn.RMSNorm(2 * self.head_dim, eps=config.norm_eps)

    def initialize(self):
        super().initialize()
        nn.init.normal_(self.lambda_vectors, std=self.config.differential_lambda_std)

    def mix(self, query, key, value, visible, position_bias=None):
        scores = self.scores(query, key)
        maps = self.weights(scores if position_bias is None else scores + position_bias, visible)
        first, second = maps.chunk(2, dim=1)  # (B, H/2, Q, K)
        q1, k1, q2, k2 = self.lambda_vectors
        weights = first - ((q1 @ k1).exp() - (q2 @ k2).exp() + self.lambda_init) * second
        dropped = nn.functional.dropout(weights, p=self.attention_dropout, training=self.training)
        output = torch.matmul(dropped, torch.cat(value.chunk(2, dim=1), dim=-1))  # (B, H/2, Q, 2D)
        output = self.head_norm(output) * (1 - self.lambda_init)
        return output.unflatten(-1, (2, -1)).transpose(2, 3).flatten(1, 2), weights.repeat(1, 2, 1, 1)
