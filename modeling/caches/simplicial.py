"""The cache of a 2-simplicial layer: the last tokens of its two windows, whatever the length of the text."""

from typing import Any

import torch

from .base import StatesCacheLayer


class SimplicialCacheLayer(StatesCacheLayer):
    """Keys and values of the last `simplicial_window - 1` tokens, second ones of the last `second_window - 1`.

    Its memory is bounded by the windows, so it serves static caches, too: there the windows have their full size from
    the beginning, and what is before the text is 0, which the attention has to hide. While past states are recorded,
    as assisted decoding asks, later tokens stay until `crop`.
    """

    _layer_type = "simplicial_attention"
    is_compileable = True
    names = ("keys", "values", "second_keys", "second_values")

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.windows: tuple[int, int] | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begins with empty windows."""
        super().lazy_initialization(key_states, value_states)
        batch, heads, _, size = key_states.shape
        for name, width in zip(self.names, self.widths(), strict=True):
            self.keep(name, key_states.new_zeros(batch, heads, width if self.is_compileable else 0, size))

    def widths(self) -> tuple[int, int, int, int]:
        """Numbers of earlier tokens of each tensor that the next token needs."""
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
        self.windows = windows
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        visible = []
        added = (key_states, value_states, second_keys, second_values)
        for name, states, width in zip(self.names, added, self.widths(), strict=True):
            states = torch.cat([getattr(self, name), states], dim=-2)
            visible.append(last(states, width + key_states.shape[-2]))
            self.keep(name, states if self.record_past else shorten(states, width))
        keys, values, second_keys, second_values = visible
        return (keys, second_keys), (values, second_values)

    def remove(self, count: int) -> None:
        if count and not self.record_past and self.cumulative_length >= min(self.windows or (1, 1)):
            raise RuntimeError("Call activate_past_recording before crop: the tokens before the window are gone.")
        for name, width in zip(self.names, self.widths(), strict=True):
            states: Any = getattr(self, name)
            self.keep(name, last(states[..., : states.shape[-2] - count, :], width))


def last(states: torch.Tensor, count: int) -> torch.Tensor:
    """The last `count` tokens of (batch, heads, tokens, head size), or all if there are fewer."""
    return states if states.shape[-2] <= count else states[..., states.shape[-2] - count :, :]


def shorten(states: torch.Tensor, count: int) -> torch.Tensor:
    """The last `count` tokens of (B, G, N, D), copied where a view would keep the memory of a long prompt."""
    kept = last(states, count)
    return kept.clone() if states.shape[-2] > 2 * count else kept
