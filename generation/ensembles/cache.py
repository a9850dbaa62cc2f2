"""The cache of an ensemble: one cache for each of its members."""

from typing import Any

import torch
from transformers.cache_utils import Cache


class EnsembleCache(Cache):
    """A cache that passes every call of `generate` on to each member's own cache.

    Args:
        members: Each member's cache, or None where its first forward pass makes it.
    """

    def __init__(self, members: list[Cache | None]):
        super().__init__(layers=[])
        self.members = members

    def __repr__(self) -> str:
        return f"EnsembleCache({self.members})"

    def __len__(self) -> int:
        return sum(len(cache) for cache in self._made())

    def _made(self) -> list[Cache]:
        return [cache for cache in self.members if cache is not None]

    def _each(self, method: str, *args: Any) -> None:
        for cache in self._made():
            getattr(cache, method)(*args)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of tokens that every member has read."""
        return next((cache.get_seq_length(layer_idx) for cache in self._made()), 0)

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """The smallest number of tokens that a member can hold, -1 if there is no limit."""
        lengths = [cache.get_max_length(layer_idx) for cache in self._made()]
        return min((length for length in lengths if length >= 0), default=-1)

    def reset(self) -> None:
        """Empties every member's cache."""
        self._each("reset")

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._each("reorder_cache", beam_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last `-tokens_to_remove` tokens from every member's cache."""
        self._each("crop", tokens_to_remove)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each("batch_repeat_interleave", repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._each("batch_select_indices", indices)

    def activate_past_recording(self) -> None:
        self._each("activate_past_recording")

    @property
    def is_compileable(self) -> bool:
        """Always False: masks are made in each member's forward pass, and `generate` would make one for all."""
        return False

    @property
    def is_croppable(self) -> bool:
        return all(cache.is_croppable for cache in self._made())

    @property
    def is_sliding(self) -> list[bool]:
        return [sliding for cache in self._made() for sliding in cache.is_sliding]
