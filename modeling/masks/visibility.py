"""The visibility of tokens to the queries of a layer, each form in a field of its own."""

# Shapes: B batch, Q queries, K keys.

from typing import Any, NamedTuple

import torch


class Visibility(NamedTuple):
    """The tokens that the queries of a layer may see, besides what its kind hides; a field None hides nothing.

    Pairwise attention reads `mask` and `lengths`, or `band` in place of both; mechanisms that make no table of pairs
    read `is_token` and `segments`, of which at most one is given.

    Attributes:
        mask: Mask for transformers' attention interface: (B, 1, Q, K) for `eager` and `sdpa`.
        lengths: Lengths of the sequences that the one row packs, each to be computed by itself; `mask` is then that of
            the longest.
        band: A `BandedMask`, which brings what computes it.
        is_token: (B, K) booleans, False for padding.
        segments: (B, K) in int32, from 1: the numbers of packed sequences. Tokens see those of their own number.
    """

    mask: Any = None
    lengths: list[int] | None = None
    band: Any = None
    is_token: torch.Tensor | None = None
    segments: torch.Tensor | None = None


EVERYTHING = Visibility()
