"""The cache of a 2-simplicial layer: the last tokens of its two windows, whatever the length of the text."""

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING, CacheLayerMixin


class SimplicialCacheLayer(CacheLayerMixin):
    """Keys and values of the last `simplicial_window - 1` tokens, second ones of the last `second_window - 1`.

    Its memory is bounded by the windows, so it serves static caches, too. While past states are recorded, as assisted
    decoding asks, it keeps what came since, until `crop`.
    """

    _layer_type = "simplicial_attention"  # the library registers the class under this name
    is_sliding = False  # else the masks of sliding layers would be sized by it
    is_compileable = False
    is_croppable = True
    supports_early_init = False
    names = ("keys", "values", "second_keys", "second_values")

    def __init__(self, **kwargs):
        super().__init__()
        self.second_keys = self.second_values = None
        self.windows: tuple[int, int] | None = None
        self.cumulative_length = 0
        self.record_past = False

    def activate_past_recording(self) -> None:
        self.record_past = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        for name in self.names:
            setattr(self, name, key_states[:, :, :0])
        self.is_initialized = True

    def widths(self) -> tuple[int, int, int, int]:
        """How many earlier tokens of each tensor the next token needs."""
        first, second = self.windows or (1, 1)
        return first - 1, first - 1, second - 1, second - 1

    def update(  # pyright: ignore[reportIncompatibleMethodOverride] it holds four tensors
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args,
        second_keys: torch.Tensor,
        second_values: torch.Tensor,
        windows: tuple[int, int],
        **kwargs,
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """Appends the states (batch, heads, tokens, head size) of new tokens.

        Returns:
            First and second keys, then first and second values, that the new tokens may see.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.windows = windows
        self.cumulative_length += key_states.shape[-2]
        visible = []
        added = (key_states, value_states, second_keys, second_values)
        for name, states, width in zip(self.names, added, self.widths(), strict=True):
            states = torch.cat([getattr(self, name), states], dim=-2)
            visible.append(last(states, width + key_states.shape[-2]))
            setattr(self, name, states if self.record_past else keep(states, width))
        keys, values, second_keys, second_values = visible
        return (keys, second_keys), (values, second_values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cumulative_length + query_length, 0

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_max_length(self) -> int:
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last `-tokens_to_remove` tokens, and what recording kept beyond the windows."""
        count = -tokens_to_remove
        if count < 0:
            raise ValueError(
                f"tokens_to_remove={tokens_to_remove} must be 0 or negative: the number that goes, negated."
            )
        if not self.is_initialized:
            return
        if count and not self.record_past and self.cumulative_length >= min(self.windows or (1, 1)):
            raise RuntimeError("Call activate_past_recording before crop: the tokens before the window are gone.")
        for name, width in zip(self.names, self.widths(), strict=True):
            states: Any = getattr(self, name)
            setattr(self, name, last(states[..., : states.shape[-2] - count, :], width))
        self.cumulative_length -= count

    def reset(self) -> None:
        self.keys = self.values = self.second_keys = self.second_values = None
        self.is_initialized = False
        super().reset()

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if self.is_initialized:
            for name in self.names:
                setattr(self, name, change(getattr(self, name)))

    def offload(self) -> None:
        self.apply(lambda states: states.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        self.apply(lambda states: states.to(self.device, non_blocking=True))

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.apply(lambda states: states.index_select(0, beam_idx.to(states.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.apply(lambda states: states.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.apply(lambda states: states[indices])


def last(states: torch.Tensor, count: int) -> torch.Tensor:
    """The last `count` tokens of (batch, heads, tokens, head size), or all if there are fewer."""
    return states[..., max(0, states.shape[-2] - count) :, :]


def keep(states: torch.Tensor, count: int) -> torch.Tensor:
    """What `last` does, and in memory of its own after a long prompt, all of whose memory a view would keep."""
    kept = last(states, count)
    return kept.clone() if states.shape[-2] > 2 * count else kept


STATIC_LAYER_TYPE_MAPPING["simplicial_attention"] = SimplicialCacheLayer
