"""Copies of the caches of `generate`, taken apart by tokens where a layer keeps something of every token."""

# Shapes: B batch, G heads, N tokens, D head size.

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from ...modeling.caches.pairwise import PairwiseCacheLayer
from ...modeling.caches.tokens import BigBirdCacheLayer


TOKEN_AXIS = 2


@dataclass(frozen=True)
class Snapshot:
    """A cache after some tokens, as what it has beyond an earlier snapshot.

    Attributes:
        cache: The cache without its layers.
        layers: Copies of the layers. Where `grows` says so, their tensors hold the tokens since the earlier snapshot
            alone; what others keep, states and windows, is whole.
        length: Number of cached tokens.
        bytes: Memory of all tensors.
    """

    cache: Cache
    layers: list[Any]
    length: int
    bytes: int


def grows(layer: Any) -> bool:
    """Whether a layer keeps tensors (B, G, N, ...) of all tokens, which can be cut anywhere."""
    return type(layer) in (DynamicLayer, PairwiseCacheLayer) or isinstance(layer, BigBirdCacheLayer)


def take(cache: Cache, start: int, end: int | None = None) -> Snapshot:
    """A copy of a cache of one text: of its first `end` tokens, what it has beyond its first `start`.

    Only a cache of which all layers grow can be taken before its end, which is the default.
    """
    last: int = cache.get_seq_length() if end is None else end
    layers = [
        changed(layer, lambda states: states.narrow(TOKEN_AXIS, start, last - start).clone(), last)
        if grows(layer)
        else changed(layer, torch.clone)
        for layer in cache.layers
    ]
    return Snapshot(without_layers(cache), layers, last, sum(count_bytes(layer) for layer in layers))


def join(path: Sequence[Snapshot]) -> Cache:
    """The cache after the last of some snapshots, each of which goes on from the one before it. A copy of its own."""
    cache, layers = without_layers(path[-1].cache), []
    for parts in zip(*(snapshot.layers for snapshot in path), strict=True):
        layer = parts[-1]
        if grows(layer):
            names = [name for name, value in vars(layer).items() if isinstance(value, torch.Tensor)]
            whole = {name: torch.cat([getattr(part, name) for part in parts], dim=TOKEN_AXIS) for name in names}
            layer = copy.copy(layer)
            vars(layer).update(whole)
        else:
            layer = changed(layer, torch.clone)
        layers.append(layer)
    cache.layers = layers
    return cache


def without_layers(cache: Cache) -> Cache:
    """A shallow copy that has no layers yet."""
    cache = copy.copy(cache)
    cache.layers = []
    return cache


def changed(layer: Any, change: Callable[[torch.Tensor], torch.Tensor], length: int | None = None) -> Any:
    """A copy of a layer with its tensors changed, and with another count of tokens where it keeps one."""
    layer = copy.copy(layer)
    vars(layer).update({name: in_values(value, change) for name, value in vars(layer).items()})
    if length is not None and hasattr(layer, "cumulative_length"):
        layer.cumulative_length = length
    return layer


def in_values(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """A value with the tensors in it changed, in lists, tuples and dictionaries, too."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(in_values(part, change) for part in value)
    if isinstance(value, dict):
        return {name: in_values(part, change) for name, part in value.items()}
    return value


def count_bytes(holder: Any) -> int:
    """The memory of the tensors that an object, or what it holds, has."""
    total = 0

    def add(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    in_values(dict(vars(holder)), add)
    return total
