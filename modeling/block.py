"""One layer: a token mixer, in a decoder perhaps cross-attention, and a feed-forward, each with norm and residual."""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration.choices import Choices
from ..configuration.configuration_trine import TrineConfig
from .attention.table import ATTENTIONS, CROSS_ATTENTIONS
from .feed_forward.table import FEED_FORWARDS
from .masks.visibility import EVERYTHING, Visibility
from .norms import make_norm


class TrineLayer(GradientCheckpointingLayer):
    """A pre-norm layer: `x + f(norm(x))` for each sub-layer f in turn.

    Source: Xiong et al. 2020, arXiv 2002.04745.
    """

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__()
        self.self_attn = ATTENTIONS[config.attention_types[layer_idx]](config, layer_idx)
        self.mlp = FEED_FORWARDS[config.mlp_layer_types[layer_idx]](config)
        has_norm = layer_idx > 0 or config.first_attention_norm
        # None, not `nn.Identity`: PEFT's layer-norm tuning fails where what has a norm's name has no weights.
        self.input_layernorm = make_norm(config, config.hidden_size) if has_norm else None
        self.post_attention_layernorm = make_norm(config, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.cross_attn: nn.Module | None = None
        if config.add_cross_attention:
            self.cross_attn = CROSS_ATTENTIONS[True](config, layer_idx)
            self.cross_attention_layernorm = make_norm(config, config.hidden_size)

    def enter(self, norm: nn.Module | None, hidden_states: torch.Tensor) -> torch.Tensor:
        """The input of a sub-layer, (batch, length, hidden): the normalised residual stream."""
        return hidden_states if norm is None else norm(hidden_states)

    def leave(self, norm: nn.Module, hidden_states: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The residual stream (batch, length, hidden) after a sub-layer that returned `output`."""
        return hidden_states + self.dropout(output)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        *,
        visibility: Visibility = EVERYTHING,
        encoder_attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Maps (batch, length, hidden) to the same shape.

        Tensors that need a gradient are positional: reentrant gradient checkpointing sees positional arguments only.
        """
        self_cache = past_key_values
        if isinstance(past_key_values, EncoderDecoderCache):
            self_cache = past_key_values.self_attention_cache
        kwargs |= {"position_embeddings": position_embeddings, "past_key_values": self_cache}
        norm: Any = self.input_layernorm
        mixed, *_ = self.self_attn(self.enter(norm, hidden_states), visibility, position_bias=position_bias, **kwargs)
        hidden_states = self.leave(norm, hidden_states, mixed)
        if self.cross_attn is not None:
            norm = self.cross_attention_layernorm
            mixed, _ = self.cross_attn(
                self.enter(norm, hidden_states), encoder_hidden_states, encoder_attention_mask, past_key_values
            )
            hidden_states = self.leave(norm, hidden_states, mixed)
        norm = self.post_attention_layernorm
        return self.leave(norm, hidden_states, self.mlp(self.enter(norm, hidden_states)))


class TrinePostNormLayer(TrineLayer):
    """A post-norm layer: `norm(x + f(x))` for each sub-layer f in turn.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.1.
    """

    def enter(self, norm: nn.Module | None, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states

    def leave(self, norm: nn.Module, hidden_states: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return norm(hidden_states + self.dropout(output))


LAYERS = Choices("norm_position", {"pre": TrineLayer, "post": TrinePostNormLayer})
