"""What the queries of a layer see, each form by its name."""

# Shapes: B batch, Q queries, K keys.

from typing import Any, NamedTuple

import torch


class Visibility(NamedTuple):
    """What the queries of a layer may see, beside what its kind hides. A field that is None hides nothing.

    Pairwise attention reads `mask` and `lengths`, or `band` in place of both; mechanisms that make no table of pairs
    read `is_token` and `segments`, of which at most one is given.

    Attributes:
        mask: What the functions of transformers' attention interface read: (B, 1, Q, K) for `eager` and `sdpa`.
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
