"""One layer: a token mixer and a feed-forward, each with its norm and residual connection."""

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration.configuration_trine import TrineConfig
from .attention.attention_table import ATTENTIONS
from .feed_forward.feed_forward_table import FEED_FORWARDS
from .norms import make_norm


class TrineLayer(GradientCheckpointingLayer):
    """A pre-norm layer: `x + f(norm(x))` for the mixer, then for the feed-forward.

    Source: Xiong et al. 2020, arXiv 2002.04745.
    """

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__()
        self.self_attn = ATTENTIONS[config.attention_types[layer_idx]](config, layer_idx)
        self.mlp = FEED_FORWARDS[config.mlp_layer_types[layer_idx]](config)
        self.input_layernorm = make_norm(config, config.hidden_size)
        self.post_attention_layernorm = make_norm(config, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Maps (batch, length, hidden) to the same shape.

        What needs a gradient is positional: reentrant gradient checkpointing sees positional arguments only.
        """
        kwargs |= {"position_embeddings": position_embeddings, "past_key_values": past_key_values}
        mixed, _ = self.self_attn(
            self.input_layernorm(hidden_states), attention_mask, position_bias=position_bias, **kwargs
        )
        hidden_states = hidden_states + self.dropout(mixed)
        return hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))


class TrinePostNormLayer(TrineLayer):
    """A post-norm layer: `norm(x + f(x))` for the mixer, then for the feed-forward.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.1.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        kwargs |= {"position_embeddings": position_embeddings, "past_key_values": past_key_values}
        mixed, _ = self.self_attn(hidden_states, attention_mask, position_bias=position_bias, **kwargs)
        hidden_states = self.input_layernorm(hidden_states + self.dropout(mixed))
        return self.post_attention_layernorm(hidden_states + self.dropout(self.mlp(hidden_states)))


LAYERS = {"pre": TrineLayer, "post": TrinePostNormLayer}
