"""Cross-attention: tokens of a decoder look at the states of an encoder."""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...configuration.configuration_trine import TrineConfig
from .softmax import SoftmaxAttention, eager_attention_forward


class CrossAttention(SoftmaxAttention):
    """Softmax attention from decoder tokens (queries) to all encoder states (keys and values), without positions.

    Its cache holds the projected encoder states, which are computed once a generation.
    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3.
    """

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.is_causal = False
        if config.cross_attention_hidden_size != config.hidden_size:
            size = config.num_key_value_heads * self.head_dim
            self.k_proj = nn.Linear(config.cross_attention_hidden_size, size, bias=config.attention_bias)
            self.v_proj = nn.Linear(config.cross_attention_hidden_size, size, bias=config.attention_bias)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] it has another source of keys
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mixes encoder states into `hidden_states`.

        Args:
            hidden_states: (B, Q, hidden).
            encoder_hidden_states: (B, K, encoder's hidden).
            encoder_attention_mask: A ready mask, (B, 1, Q, K), or None where every state is seen.
            past_key_values: Holds keys and values after the first step.

        Returns:
            (B, Q, hidden), and weights (B, H, Q, K) if eager.
        """
        query = self.q_norm(self.split_heads(self.q_proj(hidden_states))).transpose(1, 2)
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            layer: Any = past_key_values.cross_attention_cache.layers[self.layer_idx]
            length = encoder_hidden_states.shape[1]  # a static cache may have places for more
            key, value = layer.keys[:, :, :length], layer.values[:, :, :length]
        else:
            key = self.k_norm(self.split_heads(self.k_proj(encoder_hidden_states))).transpose(1, 2)
            value = self.split_heads(self.v_proj(encoder_hidden_states)).transpose(1, 2)
            if past_key_values is not None:
                past_key_values.cross_attention_cache.update(key, value, self.layer_idx)
                past_key_values.is_updated[self.layer_idx] = True
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(str(self.config._attn_implementation), eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        options = {"dropout": dropout, "scaling": self.scaling, "is_causal": False}
        output, weights = attend(self, query, key, value, encoder_attention_mask, **options)
        return self.o_proj(output.flatten(2)), weights
