"""Linear attention, chunkwise: scores within a chunk, and sums over the keys of earlier chunks."""

# Shapes: B batch, H query heads, G key-value heads, R = H / G, Q tokens in N chunks of C, F features, D head size.

import math

import torch
from torch import nn

from ..exporting.lengths import block_count, block_width, serves_all_lengths
from .states import Decay, KernelState, chunk_states, decay_mask, divide, update_state


def chunk_size(num_features: int, head_dim: int) -> int:
    """Tokens whose scores make a table: the power of two for which that is about as large as a state."""
    return 2 ** round(math.log2(num_features * head_dim) / 2)


def kernelized_mixing(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    is_causal: bool,
    norm_query: torch.Tensor | None = None,
    norm_key: torch.Tensor | None = None,
    log_scale: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    before: KernelState | None = None,
) -> torch.Tensor:
    """Average of values, weighted by `<query_i, key_j> * exp(log_scale_j)`; 0 for a query whose weights are all 0.

    A decoder computes chunk by chunk: within a chunk a table of scores, and a sum of `key^T value` over the chunks
    before. An encoder of one text reads the sum of all. Neither has a loop over tokens or chunks.
    Every factor is scaled by the largest `log_scale` that its query sees, so that none overflows and no output depends
    on a later key.

    Cost: 2 * (C * (F + D) + 2 * F * D) multiply-adds per token and head in a decoder, 2 * F * D in an encoder.

    Args:
        query: Features (B, H, Q, F), not negative, as those of keys, where they make the denominators.
        key: Features (B, G, Q, F), zero for padding.
        value: (B, G, Q, D).
        is_causal: Whether a query sees only keys up to its own place.
        norm_query: Features of the denominators, where they are others.
        norm_key: Likewise.
        log_scale: (B, G, Q), the logarithm of a factor on each key's features, without gradient; None: all are 0.
        labels: (B, Q) int32, sequences that do not see each other, numbered along the row; None: all are one.
        before: The state after earlier keys, from a cache.

    Returns:
        (B, H, Q, D).

    Source: Katharopoulos et al. 2020, arXiv 2006.16236, section 3.3; in chunks: Hua et al. 2022, arXiv 2202.10447.
    """
    norm_query = query if norm_query is None else norm_query
    norm_key = key if norm_key is None else norm_key
    if not is_causal and labels is None:
        state = update_state(before, key, norm_key, value, log_scale)
        numerator, denominator = by_group(query, key) @ state.sums, by_group(norm_query, key) @ state.norms.mT
        return divide(numerator, denominator).reshape(*query.shape[:3], -1)
    if not is_causal and labels is not None and log_scale is not None:
        weight = (log_scale - largest_in_segment(log_scale, labels)).exp()[..., None].to(key.dtype)
        key, norm_key, log_scale = key * weight, norm_key * weight, None
    chunks = Chunks(query, key, value, norm_query, norm_key, log_scale, labels, before)
    numerator, denominator = chunks.mix(is_causal)
    output = divide(numerator, denominator).unflatten(3, (-1, chunks.size))  # (B, G, N, R, C, D)
    return output.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :, : query.shape[2]]


def by_group(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(B, H, Q, F) as (B, G, R * Q, F)."""
    return query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)


class Chunks:
    """The tensors of a problem, cut into chunks of `chunk_size` tokens: (B, G, N, C, ...), queries (..., R * C, F).

    Padding of the last chunk has no features, and belongs to the last segment.
    """

    def __init__(self, query, key, value, norm_query, norm_key, log_scale, labels, before):
        length, groups = key.shape[2], key.shape[1]
        self.size = block_width(length, chunk_size(key.shape[-1], value.shape[-1]))
        self.count = block_count(length, self.size)
        self.missing = self.count * self.size - length
        self.before = before

        def cut_query(states: torch.Tensor) -> torch.Tensor:
            return self.cut(states).unflatten(1, (groups, -1)).transpose(2, 3).flatten(3, 4)

        self.query, self.key, self.value = cut_query(query), self.cut(key), self.cut(value)
        self.norms_are_own = norm_query is not query
        self.norm_query = cut_query(norm_query) if self.norms_are_own else self.query
        self.norm_key = self.cut(norm_key) if self.norms_are_own else self.key
        running = None
        if log_scale is not None:
            running = running_max(log_scale, labels)
            if before is not None and before.scale is not None:
                running = torch.maximum(running, before.scale)
            log_scale, running = self.cut_decay(log_scale), self.cut_decay(running)
        if labels is not None:
            labels = self.cut_decay(labels[:, None])  # (B, 1, N, C)
        self.keys, self.queries = Decay(log_scale, labels), Decay(running, labels)

    def cut(self, states: torch.Tensor) -> torch.Tensor:
        """(B, heads, Q, X) as (B, heads, N, C, X)."""
        if serves_all_lengths(self.count) or self.missing:
            states = nn.functional.pad(states, (0, 0, 0, self.missing))
        return states.unflatten(2, (self.count, self.size))

    def cut_decay(self, decay: torch.Tensor) -> torch.Tensor:
        """(B, heads, Q) as (B, heads, N, C), the last value repeated."""
        if serves_all_lengths(self.count) or self.missing:
            decay = torch.cat([decay, decay[..., -1:].expand(*decay.shape[:-1], self.missing)], dim=-1)
        return decay.unflatten(-1, (self.count, self.size))

    def mix(self, is_causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Numerators (B, G, N, R * C, D) and denominators (B, G, N, R * C, 1)."""
        pairs = decay_mask(self.queries, self.keys, self.key, is_causal)  # (B, G, N, C, C)
        scores = by_query(self.query @ self.key.transpose(-1, -2), pairs)
        numerator, norm_scores = scores @ self.value, scores
        if self.norms_are_own:
            norm_scores = by_query(self.norm_query @ self.norm_key.transpose(-1, -2), pairs)
        denominator = norm_scores.sum(dim=-1, keepdim=True)
        sides = []
        if self.count > 1 or self.before is not None:
            tensors = self.key, self.norm_key, self.value
            sides.append(chunk_states(*tensors, self.keys, self.queries, self.before))
            if not is_causal:  # from the right: the same, back to front
                keys, queries = (decay.map(lambda x: x.flip(2, 3)) for decay in (self.keys, self.queries))
                flipped = [states.flip(2, 3) for states in tensors]
                sums, norms, decay = chunk_states(flipped[0], flipped[1], flipped[2], keys, queries, None)
                sides.append((sums.flip(2), norms.flip(2), decay.map(lambda x: x.flip(2))))
        for sums, norms, decay in sides:
            reads = decay_mask(self.queries, decay, sums)  # (B, G, N, C, 1)
            numerator = numerator + by_query(self.query @ sums, reads)
            denominator = denominator + by_query(self.norm_query @ norms, reads)
        return numerator, denominator


def by_query(states: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    """Multiplies (B, G, N, R * C, X) with factors (B, G, N, C, X), the same for all R query heads of a group."""
    if factors is None:
        return states
    return (states.unflatten(3, (-1, factors.shape[-2])) * factors.unsqueeze(-3)).flatten(3, 4)


def running_max(scales: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """The largest of (B, G, Q) so far, among those of the same label, in float32.

    The label and the bits of a number, which are made to grow with it, are compared as one integer.
    """
    if labels is None:
        return scales.cummax(dim=-1)[0]
    bits = scales.float().view(torch.int32)
    order = labels[:, None].long() << 32
    largest = (order + flip_negative(bits).long()).cummax(dim=-1)[0] - order
    return flip_negative(largest.to(torch.int32)).view(torch.float32).to(scales.dtype)


def flip_negative(bits: torch.Tensor) -> torch.Tensor:
    """Turns the bits of float32 numbers, in int32, into integers of the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def largest_in_segment(scales: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The largest of (B, G, Q) among those of the same label."""
    right = running_max(scales.flip(-1), -labels.flip(-1)).flip(-1)
    return torch.maximum(running_max(scales, labels), right)
