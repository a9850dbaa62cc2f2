"""Sliding-window attention: every token sees its neighbourhood."""

from ...configuration.configuration_trine import TrineConfig
from .softmax import SoftmaxAttention


class SlidingAttention(SoftmaxAttention):
    """Softmax attention in which a token sees the `sliding_window` tokens up to and including itself.

    An encoder's window is centred and reaches `sliding_window` tokens to each side.
    Cost O(Q * sliding_window) with a windowed kernel. Cache: the last `sliding_window - 1` tokens.
    Source: Beltagy et al. 2020, Longformer, arXiv 2004.05150, section 3.1.
    """

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.sliding_window = config.sliding_window
        self.sees_only_itself = config.sliding_window == 1
