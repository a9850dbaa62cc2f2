"""Linear attention in general: weights are products of features. The base of `linear` and `performer` layers."""

# Shapes: B batch, H heads, G key-value heads, Q queries, F features, D head size.

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache

from ..caches.kernelized import KernelizedCacheLayer
from ..kernels.linear.chunkwise import kernelized_mixing
from ..kernels.linear.states import read_state
from ..masks.visibility import EVERYTHING, Visibility
from .softmax import SoftmaxAttention


class Features(NamedTuple):
    """Features of queries and keys, in float32 at least.

    `query` (B, H, Q, F) and `key` (B, G, Q, F) make the weights of values; `norm_query` and `norm_key`, where they are
    others, the sums that weights are divided by. `log_scale` (B, G, Q) is the logarithm of a factor on each key.
    """

    query: torch.Tensor
    key: torch.Tensor
    norm_query: torch.Tensor | None = None
    norm_key: torch.Tensor | None = None
    log_scale: torch.Tensor | None = None


class KernelizedAttention(SoftmaxAttention):
    """Linear attention: the average of values with weights `<features(q_i), features(k_j)>`, without a table of them.

    A subclass defines the features. A token that shares none with the tokens it sees gets 0.

    Cache: sums over keys, of constant size.
    """

    cache_layer_class = KernelizedCacheLayer

    def features(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> Features:
        """Features of queries (B, H, Q, D) and keys (B, G, Q, D), which are not rotated yet."""
        raise NotImplementedError

    def forward(
        self, hidden_states, visibility=EVERYTHING, *, position_embeddings=None, past_key_values=None, **kwargs
    ) -> tuple[torch.Tensor, None]:
        """Mixes the tokens of `hidden_states`, in float32 at least.

        Args:
            hidden_states: (B, Q, hidden).
            visibility: Padding or packed sequences, (B, tokens so far).

        Returns:
            (B, Q, hidden), and no weights.
        """
        query, key, value = self.project(hidden_states, None)
        dtype = value.dtype if value.dtype.itemsize >= 4 else torch.float32
        device = hidden_states.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            features = self.features(query.to(dtype), key.to(dtype), position_embeddings)
            output = self.mix(features, value.to(dtype), visibility, past_key_values)
        return self.o_proj(output.to(value.dtype)), None

    def mix(
        self,
        features: Features,
        value: torch.Tensor,
        visibility: Visibility,
        past_key_values: Cache | None,
    ) -> torch.Tensor:
        """The average of values (B, G, Q, D), (B, Q, H * D)."""
        if visibility.is_token is not None:
            features = without_padding(features, visibility.is_token[:, -value.shape[2] :])
        before: Any = None
        if past_key_values is not None:
            parts = {"norm_keys": features.norm_key, "log_scales": features.log_scale}
            states: Any = past_key_values.update(features.key, value, self.layer_idx, **parts)
            before, after = states
            if value.shape[2] == 1:  # the state holds all that the token sees
                return read_state(after, features.query, features.norm_query)
        output = kernelized_mixing(
            features.query,
            features.key,
            value,
            is_causal=self.is_causal,
            norm_query=features.norm_query,
            norm_key=features.norm_key,
            log_scale=features.log_scale,
            labels=visibility.segments,
            before=before,
        )
        return output.transpose(1, 2).flatten(2)


def map_both(function: Callable, query: torch.Tensor, key: torch.Tensor) -> tuple:
    """The results of `function`, a tuple of tensors (B, heads, Q, ...), for queries and for keys.

    Those of a single token are mapped as one tensor, which takes half as many operators; of a text, copying would cost
    more than that saves.
    """
    if query.shape[2] > 1:
        return function(query), function(key)
    heads, results = query.shape[1], function(torch.cat([query, key], dim=1))
    return tuple(states[:, :heads] for states in results), tuple(states[:, heads:] for states in results)


def without_padding(features: Features, tokens: torch.Tensor) -> Features:
    """Takes the keys away from places where `tokens` (B, Q) are False."""
    padding = ~tokens[:, None]
    key, norm_key, log_scale = features.key, features.norm_key, features.log_scale
    key = key.masked_fill(padding[..., None], 0)
    if norm_key is not None:
        norm_key = norm_key.masked_fill(padding[..., None], 0)
    if log_scale is not None:
        log_scale = log_scale.masked_fill(padding, torch.finfo(log_scale.dtype).min)
    return features._replace(key=key, norm_key=norm_key, log_scale=log_scale)
