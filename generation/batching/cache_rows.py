"""Rows of the caches of `generate`: put together, chosen, and cut to the length of the longest text."""

# Shapes: B batch, G heads, N tokens, D head size.

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from ...modeling.caches.kernelized import KernelizedCacheLayer
from ...modeling.caches.pairwise import PairwiseCacheLayer
from ...modeling.caches.scanned import ScannedCacheLayer
from ...modeling.caches.simplicial import SimplicialCacheLayer
from ...modeling.caches.tokens import BigBirdCacheLayer, LSHCacheLayer
from ..prefixes.snapshots import without_layers


TOKEN_AXIS = 2
# Classes of layers by name, since a checkpoint with code of its own brings copies of them.
# Layers that keep (B, G, N, ...) of all tokens or of the last ones, where padding on the left is hidden by the mask.
BY_TOKEN = {
    layer.__name__
    for layer in (
        *(DynamicLayer, DynamicSlidingWindowLayer, PairwiseCacheLayer),
        *(BigBirdCacheLayer, LSHCacheLayer, SimplicialCacheLayer),
    )
}
# Layers that keep a state (B, ...), in which padding leaves no trace.
BY_STATE = {layer.__name__ for layer in (KernelizedCacheLayer, ScannedCacheLayer)}


def can_be_joined(cache: Cache) -> bool:
    """Whether rows of such caches can be put together: whether every layer is of a known kind."""
    return all(type(layer).__name__ in BY_TOKEN | BY_STATE for layer in cache.layers)


def join_rows(caches: Sequence[Cache]) -> Cache:
    """One cache with the rows of several, whose texts end together: shorter ones are padded on the left with zeros."""
    length = max(cache.get_seq_length() for cache in caches)
    joined = without_layers(caches[0])
    joined.layers = [
        combined(parts, lambda tensors, layer=parts[0]: torch.cat(padded(tensors, layer)), length)
        for parts in zip(*(cache.layers for cache in caches), strict=True)
    ]
    return joined


def select_rows(cache: Cache, rows: Sequence[int], length: int) -> Cache:
    """A cache with some rows, of whose texts the longest has `length` tokens: padding that all have is cut away."""

    def choose(tensors: list[torch.Tensor], layer: Any) -> torch.Tensor:
        (states,) = tensors
        states = states[torch.tensor(rows, device=states.device)]
        return (
            states[:, :, max(0, states.shape[TOKEN_AXIS] - length) :] if type(layer).__name__ in BY_TOKEN else states
        )

    chosen = without_layers(cache)
    chosen.layers = [
        combined([layer], lambda tensors, layer=layer: choose(tensors, layer), length) for layer in cache.layers
    ]
    return chosen


def padded(tensors: list[torch.Tensor], layer: Any) -> list[torch.Tensor]:
    """States of equal numbers of tokens, where the layer keeps them by tokens."""
    if type(layer).__name__ not in BY_TOKEN:
        return tensors
    most = max(states.shape[TOKEN_AXIS] for states in tensors)
    equal = []
    for states in tensors:
        missing = most - states.shape[TOKEN_AXIS]
        room = states.new_zeros(*states.shape[:TOKEN_AXIS], missing, *states.shape[TOKEN_AXIS + 1 :])
        equal.append(torch.cat([room, states], dim=TOKEN_AXIS) if missing else states)
    return equal


def combined(layers: Sequence[Any], combine: Callable[[list[torch.Tensor]], torch.Tensor], length: int) -> Any:
    """A layer whose tensors are those of some layers, combined; everything else is that of the first."""
    first = layers[0]
    layer = copy.copy(first)
    for name, value in vars(first).items():
        setattr(layer, name, in_values([vars(each)[name] for each in layers], value, combine))
    if hasattr(first, "cumulative_length"):
        layer.cumulative_length = length
    return layer


def in_values(values: list[Any], first: Any, combine: Callable[[list[torch.Tensor]], torch.Tensor]) -> Any:
    """Values with the tensors in them combined, in tuples, too; a number in a tensor is that of the first."""
    if isinstance(first, torch.Tensor):
        return combine(values) if first.dim() else first
    if type(first) is tuple and first and isinstance(first[0], torch.Tensor):
        return tuple(in_values([*parts], parts[0], combine) for parts in zip(*values, strict=True))
    return first
