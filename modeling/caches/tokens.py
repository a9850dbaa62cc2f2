"""The cache of a layer that may look back at any token: states of all tokens."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.utils.import_utils import is_tracing

from .base import StatesCacheLayer


MIN_ROOM = 64  # tokens that a new buffer has room for
# Of each layer the buffers by name, whose first tokens its states are, until those are replaced. No attribute of the
# layer: transformers' exporters take those for outputs, and a traced step has none.
BUFFERS: WeakKeyDictionary["BigBirdCacheLayer", dict[str, torch.Tensor]] = WeakKeyDictionary()


class BigBirdCacheLayer(StatesCacheLayer):
    """Keys and values of all tokens, since random and global blocks may be anywhere. The token axis is the third."""

    _layer_type = "bigbird_attention"
    holds_keys_alone = True

    def reset(self) -> None:
        super().reset()
        BUFFERS.pop(self, None)

    def offload(self) -> None:
        super().offload()
        BUFFERS.pop(self, None)  # which would keep the memory that is to be free

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple:
        """Appends the states (batch, heads, tokens, ...) of new tokens; `kwargs` hold those of further names.

        Returns:
            Keys and values of all tokens.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.cumulative_length += key_states.shape[2]
        added = {"keys": key_states, "values": value_states, **kwargs}
        for name in self.names:
            states: Any = getattr(self, name)
            setattr(self, name, added[name] if states is None else self.append(name, states, added[name]))
        return self.keys, self.values

    def append(self, name: str, states: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """`states` (B, heads, N, ...) with `added` behind them, written into a buffer with room for more.

        A step then copies little. Gradients and tracing need tensors that nothing is written into later: they get
        copies.
        """
        if added.requires_grad or states.requires_grad or is_tracing(added):
            return torch.cat([states, added], dim=2)
        length = states.shape[2] + added.shape[2]
        buffers = BUFFERS.setdefault(self, {})
        buffer = buffers.get(name)
        if buffer is None or not is_beginning(states, buffer) or length > buffer.shape[2]:
            capacity = length + max(MIN_ROOM, length // 4)
            buffer = states.new_empty(*states.shape[:2], capacity, *states.shape[3:])
            buffer[:, :, : states.shape[2]] = states
            buffers[name] = buffer
        buffer[:, :, states.shape[2] : length] = added
        return buffer[:, :, :length]

    def remove(self, count: int) -> None:
        if count:
            self.apply(lambda states: states[:, :, :-count])


def is_beginning(states: torch.Tensor, buffer: torch.Tensor) -> bool:
    """Whether `states` are a view of the first tokens of `buffer`, and not a copy that something changed."""
    return buffer.data_ptr() == states.data_ptr() and len(buffer) == len(states)


class LSHCacheLayer(BigBirdCacheLayer):
    """Keys and values of all tokens, and the buckets (batch, heads, tokens, hashes) that each was put into."""

    _layer_type = "lsh_attention"
    holds_keys_alone = False
    names = ("keys", "values", "buckets")
    buckets: torch.Tensor | None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple:
        """Appends states and buckets; returns (keys, values) and the buckets, as the layer's own may be offloaded."""
        return super().update(key_states, value_states, *args, **kwargs), self.buckets
