"""The short way to attention of one's own over pairs of tokens: its scores or its mixing, and nothing else."""

# Shapes: B batch, H query heads, G key-value heads, Q queries, K keys, D head size.

from functools import partial

import torch
from torch import nn
from transformers.cache_utils import Cache

from ...configuration.configuration_trine import TrineConfig
from ..caches.pairwise import PairwiseCacheLayer, StaticPairwiseCacheLayer
from ..masks.visibility import EVERYTHING, Visibility
from ..positions.biased import relative_indices
from .softmax import SoftmaxAttention, attend_separately


class PairwiseAttention(SoftmaxAttention):
    """Softmax attention whose scores, bias, weights or mixing a subclass replaces.

    It keeps everything else: projections, grouped heads, query-key norm, rotary positions, biases of positions,
    dropout, padding, packed texts, and caches of all tokens, dynamic and static.

    Attributes that a subclass finds: `config`, `layer_idx`, `head_dim`, `scaling` (1 / sqrt(head_dim) or
    `config.attention_scale`), `is_causal`.

    Example:
        >>> class SigmoidAttention(PairwiseAttention):
        ...     def weights(self, scores, visible):
        ...         return scores.sigmoid() if visible is None else scores.sigmoid() * visible
    """

    cache_layer_classes = (PairwiseCacheLayer, StaticPairwiseCacheLayer)

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.has_position_bias = type(self).position_bias is not PairwiseAttention.position_bias

    def position_bias(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """A bias (1, H, Q, K) on the scores by position, of this layer alone. By default there is none.

        Args:
            query_positions: Indices (Q,) of the queries.
            key_positions: Those of the keys, (K,). Only distances mean something: both may begin anywhere, as padding
                counts, and a static cache has places for keys to come.
        """
        raise NotImplementedError

    def scores(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Scores (B, H, Q, K) of queries (B, H, Q, D) and keys (B, H, K, D). By default their scaled product."""
        return torch.matmul(query, key.transpose(2, 3)) * self.scaling

    def weights(self, scores: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
        """Weights (B, H, Q, K) of scores, 0 where `visible` is False. By default their softmax.

        Args:
            scores: (B, H, Q, K), in the dtype of the model.
            visible: (B, 1, Q, K), or None where every query sees every key.
        """
        if visible is not None:
            scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        dtype = torch.promote_types(scores.dtype, torch.float32)
        return nn.functional.softmax(scores, dim=-1, dtype=dtype).to(scores.dtype)

    def mix(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        visible: torch.Tensor | None,
        position_bias: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output (B, H, Q, D), and weights (B, H, Q, K) or None if there are none to show.

        By default values weighted with `weights(scores(query, key), visible)`.

        Args:
            query: (B, H, Q, D), rotated if positions rotate.
            key: (B, H, K, D), likewise; each key-value head stands beside each of its query heads. So does `value`.
            visible: (B, 1, Q, K), or None where every query sees every key.
            position_bias: (B or 1, H, Q, K), to be added to the scores: that of the positions, and the layer's own.
        """
        scores = self.scores(query, key)
        weights = self.weights(scores if position_bias is None else scores + position_bias, visible)
        dropped = nn.functional.dropout(weights, p=self.attention_dropout, training=self.training)
        return torch.matmul(dropped, value), weights

    def forward(
        self,
        hidden_states: torch.Tensor,
        visibility: Visibility = EVERYTHING,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        position_bias: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mixes the tokens of `hidden_states` (B, Q, hidden); returns the same shape, and weights if there are any."""
        query, key, value = self.project(hidden_states, position_embeddings)
        if self.has_position_bias:
            length = max(visibility.lengths or [query.shape[2]])  # of texts in one row, the longest serves all
            own = self.position_bias(*relative_indices(length, query.device, past_key_values, self.layer_idx))
            position_bias = own if position_bias is None else position_bias + own
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = attend_by_mix
        if visibility.lengths is not None:
            attend = partial(attend_separately, attend_by_mix, visibility.lengths)
        output, weights = attend(self, query, key, value, visibility.mask, position_bias=position_bias)
        return self.o_proj(output.flatten(2)), weights


def attend_by_mix(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Transformers' attention interface over `PairwiseAttention.mix`: output (B, Q, H, D), and weights."""
    assert isinstance(module, PairwiseAttention)
    groups = module.num_key_value_groups
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    output, weights = module.mix(query, key, value, attention_mask, position_bias)
    return output.transpose(1, 2), weights
