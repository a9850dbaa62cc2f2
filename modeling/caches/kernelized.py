"""The cache of a linear attention layer: sums over the features of all tokens, of constant size."""

from typing import Any

import torch

from ..kernels.linear.states import KernelState, update_state
from .base import StatesCacheLayer


STATE = ("sums", "norms", "scale")
RECORD = ("keys", "norm_keys", "values", "log_scales")


class KernelizedCacheLayer(StatesCacheLayer):
    """The `KernelState` after all tokens.

    A sum cannot be taken apart again. While past states are recorded, as assisted decoding asks, it therefore also
    keeps the state at the last `crop`, and features and values since, from which `crop` computes the state anew.
    """

    _layer_type = "kernelized_attention"
    is_compileable = True
    names = (*STATE, *(f"base_{name}" for name in STATE), *RECORD)

    def update(  # pyright: ignore[reportIncompatibleMethodOverride] it returns states
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args,
        norm_keys: torch.Tensor | None = None,
        log_scales: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[KernelState | None, KernelState]:
        """Adds new tokens to the state.

        Args:
            key_states: Features (batch, heads, tokens, features), 0 for padding.
            value_states: (batch, heads, tokens, head size), in the dtype of the features.
            norm_keys: Features of the denominators, where they are others.
            log_scales: (batch, heads, tokens), or None.

        Returns:
            The state before these tokens, None if they are the first, and that after them.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.state()
        if before is not None and self.is_compileable and (self.record_past or key_states.shape[2] > 1):
            before = before.copy()  # its tensors will hold the next state
        self.cumulative_length += key_states.shape[2]
        added = {"keys": key_states, "norm_keys": norm_keys, "values": value_states, "log_scales": log_scales}
        if self.record_past:
            if self.keys is None:
                self.put_state(before, "base_")
            for name, states in added.items():
                earlier: Any = getattr(self, name)
                setattr(self, name, states if earlier is None else torch.cat([earlier, states], dim=2))
        after = state_after(before, added)
        self.put_state(after)
        return before, after

    def state(self, prefix: str = "") -> KernelState | None:
        """The state at present, or that at the last crop, `prefix="base_"`."""
        state = [getattr(self, prefix + name) for name in STATE]
        return None if state[0] is None else KernelState(*state)

    def put_state(self, state: KernelState | None, prefix: str = "") -> None:
        """Stores a state, as that at present or, with `prefix="base_"`, at the last crop."""
        for name, states in zip(STATE, state or (None, None, None), strict=True):
            self.keep(prefix + name, states)

    def remove(self, count: int) -> None:
        recorded = 0 if self.keys is None else self.keys.shape[2]
        if count > recorded:
            raise RuntimeError(
                f"{count} tokens are to be removed, but {recorded} were recorded since the last crop: call "
                "activate_past_recording before they are read. A sum over tokens cannot be taken apart."
            )
        if count:
            kept = {name: getattr(self, name) for name in RECORD}
            kept = {
                name: None if states is None else states[:, :, : recorded - count] for name, states in kept.items()
            }
            base = self.state("base_")
            self.put_state(state_after(base, kept) if count < recorded else base)
        self.put_state(None, "base_")
        for name in RECORD:
            setattr(self, name, None)


def state_after(before: KernelState | None, added: dict[str, torch.Tensor | None]) -> KernelState:
    """The state after `added` tokens: features (B, G, N, F) and values (B, G, N, D), named as in `RECORD`."""
    tensors: Any = added
    norm_keys = tensors["keys"] if tensors["norm_keys"] is None else tensors["norm_keys"]
    return update_state(before, tensors["keys"], norm_keys, tensors["values"], tensors["log_scales"])
