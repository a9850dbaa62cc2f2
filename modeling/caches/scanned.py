"""The cache of a layer that reads a text through a state: the state after all tokens, which no text makes larger."""

from collections.abc import Callable
from typing import Any

import torch

from .base import StatesCacheLayer, fix, replace


Tensors = tuple[torch.Tensor, ...]
Scan = Callable[..., tuple[torch.Tensor, Tensors]]


class ScannedCacheLayer(StatesCacheLayer):
    """The state of a `StateAttention`, tensors of fixed sizes whose first axis is the batch.

    A state cannot be taken back by a token. While past states are recorded, as assisted decoding asks, it therefore
    also keeps the state at the last `crop`, and the inputs since, from which `crop` computes the state anew.
    """

    _layer_type = "state_attention"
    is_compileable = True
    names = ()

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state: Tensors | None = None
        self.base: Tensors | None = None  # the state at the last crop
        self.record: Tensors | None = None  # the inputs since, (batch, heads, tokens, ...)
        self.scan: Scan | None = None

    def update(  # pyright: ignore[reportIncompatibleMethodOverride] it holds a state
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, inputs: Tensors, scan: Scan, **kwargs
    ) -> tuple[torch.Tensor, None]:
        """Reads new tokens.

        Args:
            key_states: Any tensor (batch, heads, tokens, ...): it tells their number, and where the model is.
            inputs: What `scan` reads of each token, (batch, heads, tokens, ...).
            scan: Maps the state and inputs to outputs and the next state.

        Returns:
            The outputs for these tokens, and nothing: transformers takes a pair.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.record_past:
            if self.record is None:
                self.base = self.copied(self.state)
            earlier = [part[:, :, :0] for part in inputs] if self.record is None else self.record
            self.record = tuple(torch.cat(parts, dim=2) for parts in zip(earlier, inputs, strict=True))
        self.scan = scan
        self.cumulative_length += key_states.shape[2]
        output, state = scan(self.state, *inputs)
        self.state = self.held(state)
        return output, None

    def held(self, state: Tensors | None) -> Tensors | None:
        """A state as it is kept: in a static cache, in the tensors of the one before."""
        if not self.is_compileable or state is None:
            return state
        if self.state is None:
            return tuple(fix(tensor) for tensor in state)
        return tuple(replace(held, new) for held, new in zip(self.state, state, strict=True))

    def copied(self, state: Tensors | None) -> Tensors | None:
        """The state for later; in a static cache a copy, as its tensors will hold the next one."""
        return state if state is None or not self.is_compileable else tuple(tensor.clone() for tensor in state)

    def remove(self, count: int) -> None:
        recorded = 0 if self.record is None else self.record[0].shape[2]
        if count > recorded:
            raise RuntimeError(
                f"{count} tokens are to be removed, but {recorded} were recorded since the last crop: call "
                "activate_past_recording before they are read. A state cannot be taken back."
            )
        if count and self.record is not None and self.scan is not None:
            state = self.base
            if count < recorded:
                _, state = self.scan(state, *(part[:, :, : recorded - count] for part in self.record))
            self.state = self.held(state)
        self.base = self.record = None

    def reset(self) -> None:
        self.state = self.base = self.record = None
        super().reset()

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for name in ("state", "base", "record"):
            tensors: Any = getattr(self, name)
            if tensors is not None:
                changed = tuple(change(tensor) for tensor in tensors)
                setattr(self, name, self.held(changed) if name == "state" else changed)
