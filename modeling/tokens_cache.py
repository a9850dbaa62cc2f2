"""The cache of a layer that may look back at any token: states of all tokens."""

from typing import Any

import torch

from .states_cache import StatesCacheLayer


class BigBirdCacheLayer(StatesCacheLayer):
    """Keys and values of all tokens, since random and global blocks may be anywhere. The token axis is the third."""

    _layer_type = "bigbird_attention"

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple:
        """Appends the states (batch, heads, tokens, ...) of new tokens; `kwargs` hold those of further names.

        Returns:
            Keys and values of all tokens; what else there is stands in the attributes.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.cumulative_length += key_states.shape[2]
        added = {"keys": key_states, "values": value_states, **kwargs}
        for name in self.names:
            states: Any = getattr(self, name)
            setattr(self, name, added[name] if states is None else torch.cat([states, added[name]], dim=2))
        return self.keys, self.values

    def remove(self, count: int) -> None:
        if count:
            self.apply(lambda states: states[:, :, :-count])


class LSHCacheLayer(BigBirdCacheLayer):
    """Keys and values of all tokens, and the buckets (batch, heads, tokens, hashes) that each was put into."""

    _layer_type = "lsh_attention"
    names = ("keys", "values", "buckets")
