"""Checks that a given cache has the layers that the model needs, and tells whether these have empty places."""

from collections.abc import Callable, Iterable
from typing import Any

from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING, Cache, EncoderDecoderCache

from ...configuration.choices import Choices
from ...configuration.configuration_trine import TrineConfig


# Of each layer type whose states no layer of transformers' can hold, what refuses another cache. Their caches fill it.
STATE_CHECKS: dict[str, Callable[[Cache, TrineConfig, int], None]] = {}


def refuse_cache(past_key_values: Cache, config: TrineConfig) -> None:
    """Refuses any cache of an encoder."""
    raise ValueError(
        "past_key_values are given, but is_causal=False: only a decoder reads a cache. Methods that put keys and "
        "values before a text, as PEFT's prefix tuning, do not suit this model; prompt tuning does."
    )


def check_decoder_cache(past_key_values: Cache, config: TrineConfig) -> None:
    """Refuses a cache that cannot hold the states of a decoder, or would lose some of them.

    Raises:
        ValueError: A layer with states of its own has no place for them, as the cache was made without the config; or
            cross-attention has no cache, or one with the windows of the decoder, which do not hold the whole source.
    """
    self_cache = getattr(past_key_values, "self_attention_cache", past_key_values)
    for index, layer_type in enumerate(config.layer_types):
        if layer_type in STATE_CHECKS:
            STATE_CHECKS[layer_type](self_cache, config, index)
    for check in CROSS_CHECKS.values():
        if config.add_cross_attention:
            check(past_key_values, config)


def check_states(cache: Cache, config: TrineConfig, index: int) -> None:
    """Refuses a cache without the states of layer `index`."""
    layer = cache.layers[index] if index < len(cache.layers) else None
    if getattr(layer, "_layer_type", None) != config.layer_types[index]:
        raise ValueError(
            f"past_key_values has {describe(layer)} for layer {index}, which is '{config.attention_types[index]}'. "
            f"Make the cache for this model: {advice(config)}. Keys and values alone, as PEFT's prefix tuning makes "
            "them, are not its states; prompt tuning suits it."
        )


def check_cross_attention_cache(past_key_values: Cache, config: TrineConfig) -> None:
    """Raises a `ValueError` for a cache that cannot hold all states of the encoder."""
    if not isinstance(past_key_values, EncoderDecoderCache):
        raise ValueError(
            f"past_key_values is a {type(past_key_values).__name__}, but a decoder with cross-attention needs "
            f"{advice(config)}."
        )
    for index, layer in enumerate(past_key_values.cross_attention_cache.layers):
        if getattr(layer, "is_sliding", False) or getattr(layer, "_layer_type", None) is not None:
            raise ValueError(
                f"cross_attention_cache has {describe(layer)} for layer {index}, which does not hold all states of "
                f"the encoder. Use {advice(config)}."
            )


CROSS_CHECKS = Choices("add_cross_attention", {True: check_cross_attention_cache})
CACHE_CHECKS = Choices("is_causal", {True: check_decoder_cache, False: refuse_cache})


def describe(layer: object) -> str:
    """The name of a cache layer for messages."""
    return "nothing" if layer is None else f"a {type(layer).__name__}"


def advice(config: TrineConfig) -> str:
    """The code that makes the right cache, for messages."""
    cache = "DynamicCache(config=model.config)"
    return f"EncoderDecoderCache({cache}, DynamicCache())" if config.add_cross_attention else cache


def compiles(layer_types: Iterable[str]) -> bool:
    """Whether compiled code can write into the static caches of all these layers."""
    return all(STATIC_LAYER_TYPE_MAPPING[layer_type].is_compileable for layer_type in layer_types)


def has_fixed_length(cache: Cache) -> bool:
    """Whether a layer of the cache has empty places for later tokens, which masks have to hide."""
    return any(map(is_static, cache.layers))


def is_static(layer: Any) -> bool:
    """Whether a layer of a cache is allocated in full before the first token, as those of a `StaticCache`."""
    return getattr(layer, "is_compileable", False)


def reads_empty_places(cache: Cache | None, layer_idx: int, length: int) -> bool:
    """Whether a layer of the cache gives a single new token also keys of empty places.

    Then it needs a mask. transformers makes one only if *all* layers of the cache are static.
    """
    return length == 1 and cache is not None and layer_idx < len(cache.layers) and is_static(cache.layers[layer_idx])
