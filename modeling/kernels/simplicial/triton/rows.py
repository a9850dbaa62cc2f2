"""The parts that all Triton kernels of 2-simplicial attention use: rows, trilinear forms, visibility.

The second window is folded into the rows of an ordinary flash-attention loop: for query i and offset t, the row
(i, t) holds `compose(q_i, k'_m)` with m = M - Q + i - second.left + t. The loop over the first axis then needs no
trilinear work, and the offsets of a query are merged by their log-sum-exps.

Triton is imported here alone. Where it is not installed, stand-ins let the kernels be defined, not run.
"""

# Shapes: R rows, N any tokens, D head size, DP the power of two that holds it.
# pyright: reportInvalidTypeForm=false

from types import SimpleNamespace
from typing import Any, cast


try:
    import triton as _triton
    import triton.language as _language
except ImportError:
    _triton, _language = None, SimpleNamespace(constexpr=object)
triton = cast(Any, _triton)
tl = cast(Any, _language)  # kernels are Triton's language, of which a type checker knows less than Triton does


# Numbers that change with the text. A kernel is compiled once for all of them: by default Triton compiles it anew for
# 1, for multiples of 16 and for others, in every combination, which the first tokens of each text would wait for.
LENGTHS = ["QUERIES", "KEYS", "SECOND_KEYS", "TOKENS", "left", "right", "SECOND_LEFT", "OFFSETS", "splits", "VECTORS"]


def jit(function) -> Any:
    """`triton.jit` for all `LENGTHS`, or the function itself where Triton is not installed."""
    return function if triton is None else triton.jit(function, do_not_specialize=LENGTHS)


@jit
def fold_rows(
    first_pair,
    segments,
    QUERIES,
    SECOND_KEYS,
    TOKENS,
    SECOND_LEFT,
    OFFSETS,
    OFFSET_BLOCK: tl.constexpr,
    REPEATS: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr,
):
    """Computes the query and the second key of each row.

    Pairs number the queries and, within one, the `REPEATS` heads that share a key head. A row is a pair and an offset.

    Returns, each (R,): the query, its head in the group, its place among the group's (REPEATS * QUERIES) vectors, the
    offset, the second key, whether the query sees it, and the query's segment.
    """
    row = tl.arange(0, ROWS)
    pair = first_pair + row // OFFSET_BLOCK
    offset = row % OFFSET_BLOCK
    query, head = pair // REPEATS, pair % REPEATS
    place = head.to(tl.int64) * QUERIES + query  # times D, it may pass 2**31
    second = SECOND_KEYS - QUERIES + query - SECOND_LEFT + offset
    seen = (query < QUERIES) & (offset < OFFSETS) & (second >= 0) & (second < SECOND_KEYS)
    segment = tl.zeros((ROWS,), tl.int32)
    if HAS_SEGMENTS:
        segment = tl.load(segments + TOKENS - QUERIES + query, mask=query < QUERIES, other=0)
        second_segment = tl.load(segments + TOKENS - SECOND_KEYS + second, mask=seen, other=0)
        seen = seen & (segment == second_segment) & (segment > 0)
    return query, head, place, offset, second, seen, segment


@jit
def sees(distance, key, segment, segments, KEYS, TOKENS, left, right, HAS_SEGMENTS: tl.constexpr):
    """Whether a query sees a first key at `distance` (key less query) from itself; `key` and `segment` broadcast."""
    seen = (distance >= -left) & (distance <= right) & (key < KEYS)
    if HAS_SEGMENTS:
        seen = seen & (segment == tl.load(segments + TOKENS - KEYS + key, mask=key < KEYS, other=-1))
    return seen


@jit
def shifts(log_sum, offset_bias, seen, HAS_BIAS: tl.constexpr):
    """The numbers to subtract from each row's logits, in base 2: infinity for rows that see nothing."""
    shift = tl.load(log_sum, mask=seen, other=float("inf")) * 1.4426950408889634
    if HAS_BIAS:
        shift -= tl.load(offset_bias, mask=seen, other=0.0).to(tl.float32) * 1.4426950408889634
    return tl.where(shift > float("-inf"), shift, float("inf"))


@jit
def tiles_within(low, high, full_low, full_high, STEP: tl.constexpr):
    """Bounds of the tiles of `STEP`, counted from `low`, that lie within [full_low, full_high)."""
    start = tl.minimum(low + tl.cdiv(tl.maximum(full_low - low, 0), STEP) * STEP, high)
    end = low + tl.maximum(tl.minimum(full_high, high) - low, 0) // STEP * STEP
    return start, tl.maximum(start, end)


@jit
def load_rows(pointer, row, seen, feature, D: tl.constexpr, DP: tl.constexpr):
    """The features (N, DP) of rows (N,) of a contiguous (..., D); zero where not seen, and beyond D."""
    mask = seen[:, None]
    if D < DP:
        mask = mask & (tl.arange(0, DP) < D)[None, :]
    return tl.load(pointer + row[:, None] * D + feature[None, :], mask=mask, other=0.0)


@jit
def load_tile(pointer, row, seen, D: tl.constexpr, DP: tl.constexpr):
    """Loads all features (N, DP) of rows (N,) of a contiguous (..., D)."""
    return load_rows(pointer, row, seen, tl.arange(0, DP), D, DP)


@jit
def coefficient(
    pointer,
    row,
    seen,
    term: tl.constexpr,
    OF_QUERY: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The factors c (N, DP) of one term of the form, which is linear in the query x and in the second key y:

        compose(x, y)[d] = sum over terms of  x[(d + shift) % D] * c(y)[d]    (OF_QUERY)
                         = sum over terms of  y[(d + shift) % D] * c(x)[d]    (not OF_QUERY)

    Hadamard (one part): shift 0, c(y) = y. Complex (two parts: real, imaginary): term n shifts by n halves, and c is
    part n, of which the query's term 1 and the second key's term 0 change sign at imaginary d. Determinant (three
    parts): term n shifts by n + 1 thirds, and c is the input shifted by the other third, of alternating sign.
    """
    d = tl.arange(0, DP)
    if PARTS == 1:
        factor = load_rows(pointer, row, seen, d, D, DP).to(tl.float32)
    elif PARTS == 2:
        factor = load_rows(pointer, row, seen, d % (D // 2) + term * (D // 2), D, DP).to(tl.float32)
        if (term == 1) == OF_QUERY:
            factor = tl.where((d < D // 2)[None, :], factor, -factor)
    else:
        factor = load_rows(pointer, row, seen, (d + (2 - term) * (D // 3)) % D, D, DP).to(tl.float32)
        if (term == 0) == OF_QUERY:
            factor = -factor
    return factor


@jit
def compose_rows(query, second_key, place, second, seen, D: tl.constexpr, DP: tl.constexpr, PARTS: tl.constexpr):
    """`compose(q, k')` (R, DP) in float32 of the rows that `fold_rows` made."""
    composed = coefficient(second_key, second, seen, 0, True, D, DP, PARTS)
    composed *= load_rows(query, place, seen, shifted_features(0, D, DP, PARTS), D, DP).to(tl.float32)
    if PARTS > 1:
        factor = coefficient(second_key, second, seen, 1, True, D, DP, PARTS)
        composed += factor * load_rows(query, place, seen, shifted_features(1, D, DP, PARTS), D, DP).to(tl.float32)
    return composed


@jit
def shifted_features(term: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PARTS: tl.constexpr):
    """The feature (d + shift) % D for each d."""
    return (tl.arange(0, DP) + (term + PARTS // 3) * (D // PARTS)) % D


@jit
def unshift(gradient, term: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PARTS: tl.constexpr):
    """Moves feature d of (N, DP) to feature (d + shift) % D: the transpose of a term's shift."""
    SHIFT: tl.constexpr = (term + PARTS // 3) * (D // PARTS)
    if SHIFT > 0:
        feature = tl.arange(0, DP)
        source = tl.where(feature < D, (feature + D - SHIFT) % D, feature)
        gradient = tl.gather(gradient, tl.broadcast_to(source[None, :], gradient.shape), axis=1)
    return gradient


is_interpreted: bool = _triton is not None and not isinstance(fold_rows, _triton.JITFunction)
