"""Chunked attention: every token sees its own chunk."""

from ...configuration.configuration_trine import TrineConfig
from .softmax import SoftmaxAttention


class ChunkedAttention(SoftmaxAttention):
    """Softmax attention within chunks of `attention_chunk_size` tokens, counted from the first real token.

    Cost O(Q * attention_chunk_size) with a block kernel. Cache: at most one chunk.
    Source: Llama 4 (Meta 2025); blocks: Child et al. 2019, arXiv 1904.10509.
    """

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.sees_only_itself = config.attention_chunk_size == 1
