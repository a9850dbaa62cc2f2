"""The cache of a layer that may look back at any token: states of all tokens."""

from weakref import WeakKeyDictionary

import torch
from transformers.utils.import_utils import is_tracing

from .base import StatesCacheLayer, fix


MIN_ROOM = 64  # tokens that a new buffer has room for
# Of each layer the buffers by name, whose first tokens its states are, until those are replaced. No attribute of the
# layer: transformers' exporters take those for outputs, and a traced step has none.
BUFFERS: WeakKeyDictionary["BigBirdCacheLayer", dict[str, torch.Tensor]] = WeakKeyDictionary()


class BigBirdCacheLayer(StatesCacheLayer):
    """Keys and values of all tokens, since random and global blocks may be anywhere. The token axis is the third.

    In a static cache there are `max_cache_len` places, of which `get_seq_length` tells the number of those in use.
    """

    _layer_type = "bigbird_attention"
    is_compileable = True
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
            Keys and values of all tokens; in a static cache, of all places.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        put = self.write if self.is_compileable else self.append
        for name, states in zip(self.names, (key_states, value_states, *kwargs.values()), strict=True):
            put(name, getattr(self, name), states)
        self.cumulative_length += key_states.shape[2]
        return self.keys, self.values

    def get_max_length(self) -> int:
        return self.max_cache_len or -1

    def write(self, name: str, held: torch.Tensor | None, added: torch.Tensor) -> None:
        """Writes `added` (B, heads, N, ...) into the places behind those in use."""
        if held is None:
            held = fix(added.new_zeros(*added.shape[:2], self.get_max_length(), *added.shape[3:]))
            setattr(self, name, held)
        held.index_copy_(2, torch.arange(added.shape[2], device=added.device) + self.cumulative_length, added)

    def append(self, name: str, states: torch.Tensor | None, added: torch.Tensor) -> None:
        """Puts `added` behind `states` (B, heads, N, ...), by writing it into a buffer with room for more.

        A step then copies little. Gradients and tracing need tensors that nothing is written into later: they get
        copies.
        """
        if states is None:
            setattr(self, name, added)
            return
        if added.requires_grad or states.requires_grad or is_tracing(added):
            setattr(self, name, torch.cat([states, added], dim=2))
            return
        length = states.shape[2] + added.shape[2]
        buffers = BUFFERS.setdefault(self, {})
        buffer = buffers.get(name)
        if buffer is None or not is_beginning(states, buffer) or length > buffer.shape[2]:
            capacity = length + max(MIN_ROOM, length // 4)
            buffer = states.new_empty(*states.shape[:2], capacity, *states.shape[3:])
            buffer[:, :, : states.shape[2]] = states
            buffers[name] = buffer
        buffer.narrow(2, states.shape[2], added.shape[2]).copy_(added)
        setattr(self, name, buffer.narrow(2, 0, length))

    def remove(self, count: int) -> None:
        if count and not self.is_compileable:  # there, places that are not in use are written anew
            self.apply(lambda states: states[:, :, :-count])


def is_beginning(states: torch.Tensor, buffer: torch.Tensor) -> bool:
    """Whether `states` are a view of the first tokens of `buffer`, and not a copy that something changed."""
    return buffer.data_ptr() == states.data_ptr() and len(buffer) == len(states)


class LSHCacheLayer(BigBirdCacheLayer):
    """Keys and values of all tokens, and the buckets (batch, heads * hashes, tokens) that each was put into."""

    _layer_type = "lsh_attention"
    holds_keys_alone = False
    names = ("keys", "values", "buckets")
    buckets: torch.Tensor | None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple:
        """Appends states and buckets; returns (keys, values) and the buckets, as the layer's own may be offloaded."""
        return super().update(key_states, value_states, *args, **kwargs), self.buckets
