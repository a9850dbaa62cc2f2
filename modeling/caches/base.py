"""The base of the cache layers of Trine's own mechanisms: named tensors, a count of tokens, and cropping."""

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, STATIC_LAYER_TYPE_MAPPING, CacheLayerMixin
from transformers.utils.import_utils import is_torchdynamo_compiling

from ..checks.caches import STATE_CHECKS, check_states


class StatesCacheLayer(CacheLayerMixin):
    """A cache layer of the tensors named in `names`, whose first axis is the batch, and the number of cached tokens.

    A subclass sets `_layer_type`, under which transformers finds it for every kind of cache, fills the tensors in
    `update`, which counts tokens in `cumulative_length`, and takes the last tokens back in `remove`.

    A class that says `is_compileable = True` stores its tensors by `keep` alone. In a static cache, which is made with
    `max_cache_len`, the same tensors then hold every state, and the count is a tensor: a compiled step, or a CUDA
    graph, writes where the step before has written. In other caches its objects say False.
    """

    is_sliding = False  # else the masks of sliding layers would be sized by it
    is_compileable = False
    is_croppable = True
    supports_early_init = False
    holds_keys_alone = False  # whether the keys and values of all tokens, as any cache has them, serve as well
    names: tuple[str, ...] = ("keys", "values")

    def __init_subclass__(cls, **kwargs):
        if "_layer_type" not in vars(cls):
            cls._layer_type = None  # that of its base is taken; a mechanism that is registered with it names it
        super().__init_subclass__(**kwargs)
        if cls._layer_type is not None:
            cls.name_type(cls._layer_type)

    @classmethod
    def name_type(cls, layer_type: str) -> None:
        """Lets transformers find this layer under a name, for every kind of cache."""
        cls._layer_type = layer_type
        DYNAMIC_LAYER_TYPE_MAPPING[layer_type] = STATIC_LAYER_TYPE_MAPPING[layer_type] = cls
        if not cls.holds_keys_alone:
            STATE_CHECKS[layer_type] = check_states

    def __init__(self, max_cache_len: int | None = None, **kwargs):
        super().__init__()
        for name in self.names:
            setattr(self, name, None)
        self.max_cache_len = max_cache_len
        self.is_compileable = self.is_compileable and max_cache_len is not None
        self.cumulative_length: Any = torch.tensor(0) if self.is_compileable else 0
        self.record_past = False

    def activate_past_recording(self) -> None:
        """Keeps from now on what `crop` needs to go back to any token since the last crop."""
        self.record_past = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Notes dtype and device of the first states."""
        self.dtype, self.device = key_states.dtype, key_states.device
        if self.is_compileable:
            self.cumulative_length = fix(self.cumulative_length.to(self.device))
        self.is_initialized = True

    def keep(self, name: str, states: torch.Tensor | None) -> None:
        """Stores a state under a name; in a static cache, in the tensor that holds the one before."""
        if self.is_compileable and states is not None:
            states = replace(getattr(self, name), states)
        setattr(self, name, states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys with `query_length` new tokens, and the offset of the first, 0."""
        return self.cumulative_length + query_length, 0

    def get_seq_length(self) -> int:
        """Number of cached tokens; of a static cache, a tensor."""
        return self.cumulative_length if self.is_initialized else 0

    def get_max_length(self) -> int:
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last `-tokens_to_remove` tokens, and the record of past states."""
        count = -tokens_to_remove
        if count < 0:
            raise ValueError(
                f"tokens_to_remove={tokens_to_remove} must be 0 or negative: the number that goes, negated."
            )
        if self.is_initialized:
            self.remove(count)
            self.cumulative_length -= count

    def remove(self, count: int) -> None:
        """Takes the last `count` tokens out of the tensors."""
        raise NotImplementedError

    def reset(self) -> None:
        for name in self.names:
            setattr(self, name, None)
        self.is_initialized = False
        super().reset()

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replaces each tensor by what `change` returns for it."""
        for name in self.names:
            states: Any = getattr(self, name)
            if states is not None:
                self.keep(name, change(states))

    def offload(self) -> None:
        self.apply(lambda states: states.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        self.apply(lambda states: states.to(self.device, non_blocking=True))

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.apply(lambda states: states.index_select(0, beam_idx.to(states.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row `repeats` times."""
        self.apply(lambda states: states.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps some rows."""
        self.apply(lambda states: states[indices])


def fix(states: torch.Tensor) -> torch.Tensor:
    """Tells compiled code that a tensor stays where it is, without which no CUDA graph may write into it."""
    if not is_torchdynamo_compiling():
        torch._dynamo.mark_static_address(states)
    return states


def replace(held: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
    """The tensor `held` with the values of `states`, or `states` themselves where they do not fit into it."""
    if states is held:
        return states
    if held is None or held.shape != states.shape or held.device != states.device:
        return fix(states)
    return held.copy_(states)
