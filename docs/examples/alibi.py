"""ALiBi: attention falls with the distance of two tokens, in each head at its own rate."""

import math

import torch
from torch import nn
from transformers import initialization as init

from trine import PositionBias, register_position


def slopes(heads):
    """What each head loses per token, (heads, 1, 1): 2^(-8/n), 2^(-16/n), ... for n heads, if n is a power of 2.

    Else those of the next smaller power of 2, and every other one of the next larger, as in the paper's code.
    """
    power = 2 ** math.floor(math.log2(heads))
    exponents = [-8 * (head + 1) / power for head in range(power)]
    exponents += [-4 * (2 * head + 1) / power for head in range(heads - power)]
    return torch.tensor(exponents)[:, None, None].exp2()


@register_position("alibi", source="Press et al. 2021, arXiv 2108.12409", beyond="runs well")
class AlibiEncoding(PositionBias):
    """subtracts the distance, times a slope per head, from the scores; in encoders in both directions"""

    def __init__(self, config):
        super().__init__(config)
        self.slopes = nn.Buffer(slopes(config.num_attention_heads), persistent=False)

    def initialize(self):
        init.copy_(self.slopes, slopes(len(self.slopes)))

    def bias(self, query_positions, key_positions):
        return -(self.slopes * (query_positions[:, None] - key_positions).abs())[None]
