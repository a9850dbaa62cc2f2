"""The recurrent state of linear attention: sums over the features of keys, kept in range by a scale."""

# Shapes: B batch, G key-value heads, Q tokens, F features, D head size; N chunks of C tokens.

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from ..exporting.lengths import serves_all_lengths


GROUP = 32  # states that are summed by one table of weights


class KernelState(NamedTuple):
    """Sums over keys, of constant size: both are to be multiplied with `exp(scale)`.

    `sums` are of features times values, (B, G, F, D), `norms` of features, (B, G, 1, F); `scale` is (B, G, 1),
    or None where it is 0.
    """

    sums: torch.Tensor
    norms: torch.Tensor
    scale: torch.Tensor | None

    def copy(self) -> "KernelState":
        """Copies the sums into tensors of their own."""
        scale = None if self.scale is None else self.scale.clone()
        return KernelState(self.sums.clone(), self.norms.clone(), scale)


def update_state(
    before: KernelState | None,
    key: torch.Tensor,
    norm_key: torch.Tensor,
    value: torch.Tensor,
    log_scale: torch.Tensor | None,
) -> KernelState:
    """The state after more keys.

    Args:
        before: The state so far, or None.
        key: Features, (B, G, Q, F).
        norm_key: Features of the denominators, (B, G, Q, F).
        value: (B, G, Q, D).
        log_scale: Logarithm of a factor on each key, (B, G, Q), or None.
    """
    if before is not None and key.shape[2] == 1:
        return add_token(before, key, norm_key, value, log_scale)
    scale = None
    if log_scale is not None:
        scale = log_scale.amax(dim=-1, keepdim=True)
        if before is not None and before.scale is not None:
            scale = torch.maximum(scale, before.scale)
        weight = (log_scale - scale).exp()[..., None].to(key.dtype)
        is_same = norm_key is key
        key = key * weight
        norm_key = key if is_same else norm_key * weight
    sums, norms = key.transpose(-1, -2) @ value, norm_key.sum(dim=-2, keepdim=True)
    if before is None:
        return KernelState(sums, norms, scale)
    old_sums, old_norms = before.sums, before.norms
    if scale is not None and before.scale is not None:
        decay = (before.scale - scale).exp()[..., None].to(key.dtype)
        old_sums, old_norms = old_sums * decay, old_norms * decay
    return KernelState(old_sums + sums, old_norms + norms, scale)


def add_token(
    before: KernelState,
    key: torch.Tensor,
    norm_key: torch.Tensor,
    value: torch.Tensor,
    log_scale: torch.Tensor | None,
) -> KernelState:
    """`update_state` of a single key: as few operators as there can be, since their number is the time of a step."""
    sums, norms, scale = before
    if log_scale is not None and scale is not None:
        old, scale = scale, torch.maximum(scale, log_scale)
        # Both factors, that on the state and that on the key, by one operator: (B, G, 2).
        factors = (torch.cat([old, log_scale], dim=-1) - scale).exp().to(key.dtype)
        decay, weight = factors.unsqueeze(-1).chunk(2, dim=2)
        is_same = norm_key is key
        key = key * weight
        norm_key = key if is_same else norm_key * weight
        norms, sums = torch.addcmul(norm_key, norms, decay), sums * decay
    else:
        norms = norms + norm_key
    return KernelState(torch.addcmul(sums, key.transpose(-1, -2), value), norms, scale)


def read_state(state: KernelState, query: torch.Tensor, norm_query: torch.Tensor | None) -> torch.Tensor:
    """The average of values that one query a head finds in a state, (B, 1, H * D).

    Args:
        state: The sums over the keys that it sees.
        query: Features (B, H, 1, F).
        norm_query: Features of the denominators, where they are others.
    """
    batch, groups, size, width = state.sums.shape
    query = query.reshape(batch * groups, -1, size)
    norm_query = query if norm_query is None else norm_query.reshape(batch * groups, -1, size)
    numerator = torch.bmm(query, state.sums.view(batch * groups, size, width))
    denominator = torch.bmm(norm_query, state.norms.view(batch * groups, size, 1))
    return divide(numerator, denominator).view(batch, 1, -1)


def divide(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """The quotient of (..., D) and (..., 1), and 0 with gradient 0 where the denominator vanishes."""
    return numerator / torch.threshold(denominator, torch.finfo(denominator.dtype).tiny, torch.inf)


class Decay(NamedTuple):
    """Log scale (..., positions) and segment label of each position, each None if all agree, for `decay_mask`."""

    scale: torch.Tensor | None
    labels: torch.Tensor | None

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Decay":
        """Applies a function to both tensors."""
        return Decay(*(None if decay is None else function(decay) for decay in self))


def decay_mask(to: Decay, source: Decay, like: torch.Tensor, is_causal: bool = False) -> torch.Tensor | None:
    """The factors with which position t reads position s: `exp(scale_s - scale_t)`, and 0 for another segment.

    Args:
        to: Decay of the readers, (..., T).
        source: Decay of what is read, (..., S).
        like: A tensor (..., S, X) of the right dtype and device.
        is_causal: Whether nothing is read of positions after t; then T = S.

    Returns:
        (..., T, S), or None if all factors are 1.
    """
    seen = None
    if is_causal:
        size = like.shape[-2]
        seen = torch.ones(size, size, dtype=torch.bool, device=like.device).tril()
    if to.labels is not None and source.labels is not None:
        same = to.labels[..., :, None] == source.labels[..., None, :]
        seen = same if seen is None else seen & same
    if to.scale is None or source.scale is None:
        return None if seen is None else seen.to(like.dtype)
    exponents = source.scale[..., None, :] - to.scale[..., :, None]
    return (exponents if seen is None else exponents.masked_fill(~seen, -torch.inf)).exp().to(like.dtype)


def previous(decay: Decay) -> Decay:
    """The decay (..., N) of the position before each; before the first is nothing, of the least scale."""

    def shift(values: torch.Tensor) -> torch.Tensor:
        first = values[..., :1]
        if values.is_floating_point():
            first = torch.full_like(first, torch.finfo(values.dtype).min)
        return torch.cat([first, values], dim=-1)[..., :-1]

    return decay.map(shift)


def chunk_states(
    key: torch.Tensor,
    norm_key: torch.Tensor,
    value: torch.Tensor,
    keys: Decay,
    queries: Decay,
    before: KernelState | None,
) -> tuple[torch.Tensor, torch.Tensor, Decay]:
    """The state that the queries of each chunk read: that before the chunk's own keys.

    Args:
        key: Features (B, G, N, C, F), as is `norm_key`; `value` is (B, G, N, C, D).
        keys: Scale and label of each key, (B, G or 1, N, C).
        queries: The largest scale that each query sees, and its label.
        before: The state before the first chunk.

    Returns:
        Sums (B, G, N, F, D) and (B, G, N, F, 1), with their decay (B, G or 1, N, 1).
    """
    ends = queries.map(lambda decay: decay[..., -1])
    earlier = previous(ends)
    if before is None:
        shape = *key.shape[:2], 1, key.shape[-1]
        first_sums, first_norms = key.new_zeros(*shape, value.shape[-1]), key.new_zeros(*shape, 1)
    else:
        first_sums, first_norms = before.sums[:, :, None], before.norms[..., None]
        if before.scale is not None and earlier.scale is not None:
            scale = torch.cat([before.scale, earlier.scale[..., 1:]], dim=-1)
            earlier = Decay(scale, earlier.labels)
    if key.shape[2] == 1:
        return first_sums, first_norms, earlier.map(lambda decay: decay[..., None])
    weights = decay_mask(ends.map(lambda decay: decay[..., None]), keys, value)  # (B, G or 1, N, 1, C)
    last_sums, last_norms = value, torch.ones_like(value[..., :1])
    if weights is not None:
        last_norms = weights.transpose(-1, -2).expand_as(last_norms)
        last_sums = value * last_norms
    # What the last chunk adds is not read; to leave it out before the products would copy all keys.
    sums, norms = key.transpose(-1, -2) @ last_sums, norm_key.transpose(-1, -2) @ last_norms
    sums = decayed_cumsum(torch.cat([first_sums, sums], dim=2)[:, :, :-1].flatten(3), earlier)
    norms = decayed_cumsum(torch.cat([first_norms, norms], dim=2)[:, :, :-1].flatten(3), earlier)
    sums, norms = sums.unflatten(3, (key.shape[-1], -1)), norms[..., None]
    return sums, norms, earlier.map(lambda decay: decay[..., None])


def decayed_cumsum(states: torch.Tensor, decay: Decay) -> torch.Tensor:
    """Cumulative sum with decay: result t is the sum of `decay_mask` times the states of positions up to t.

    A group of positions is summed by a table of weights, and the sums of groups by the same function, so that cost is
    linear. An exported program, which serves all counts, has one table for all positions.

    Args:
        states: (B, G, N, X).
        decay: (B, G or 1, N).

    Returns:
        (B, G, N, X).
    """
    count = states.shape[2]
    weights: Any  # never None, since it is causal
    if serves_all_lengths(count) or count <= GROUP:
        weights = decay_mask(decay, decay, states, is_causal=True)
        return weights @ states
    missing = -count % GROUP
    states = nn.functional.pad(states, (0, 0, 0, missing)).unflatten(2, (-1, GROUP))
    grouped = decay.map(lambda x: torch.cat([x, x[..., -1:].expand(*x.shape[:-1], missing)], dim=-1))
    grouped = grouped.map(lambda x: x.unflatten(-1, (-1, GROUP)))
    weights = decay_mask(grouped, grouped, states, is_causal=True)
    within = weights @ states
    ends = grouped.map(lambda x: x[..., -1])
    before = decayed_cumsum(within[..., -1, :], ends)
    before = nn.functional.pad(before[:, :, :-1], (0, 0, 1, 0)).unsqueeze(3)  # what is before each group
    earlier = previous(ends).map(lambda x: x[..., None])
    reads = decay_mask(grouped, earlier, before)
    within = within + (before if reads is None else reads * before)
    return within.flatten(2, 3)[:, :, :count]
