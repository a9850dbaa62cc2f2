"""The caches of layers that compute pairs themselves: transformers' own, of all tokens, under a name of their own."""

from transformers.cache_utils import DynamicLayer, StaticLayer


class PairwiseCacheLayer(DynamicLayer):
    """Keys and values of all tokens, (batch, heads, tokens, head size)."""

    _layer_type = "pairwise_attention"


class StaticPairwiseCacheLayer(StaticLayer):
    """Keys and values of all tokens, (batch, heads, length, head size), with a place for each token to come."""

    _layer_type = "pairwise_attention"
