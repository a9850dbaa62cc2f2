"""The backward kernel of 2-simplicial attention for first keys and values: they stay while the rows pass."""

# Shapes: B batch, G key-value heads, K keys, D head size, R rows (see fold_rows).
# pyright: reportInvalidTypeForm=false

from .rows import compose_rows, fold_rows, jit, load_tile, sees, shifts, tiles_within, tl


@jit
def spread(
    key_grad, value_grad, keys, values, j, query, second_key, second_value, offset_bias, segments, output_grad,
    log_sum, delta, low, high, QUERIES, KEYS, SECOND_KEYS, TOKENS, left, right, scale, SECOND_LEFT,
    OFFSETS, OFFSET_BLOCK: tl.constexpr, REPEATS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    PARTS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SEGMENTS: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Adds what the pairs of query and head from `low` to `high` send to the keys and values of a tile.

    The logits are transposed, so that the products with them read their left factor from registers.
    """
    for first_pair in range(low, high, ROWS // OFFSET_BLOCK):
        i, head, place, offset, second, seen, segment = fold_rows(
            first_pair, segments, QUERIES, SECOND_KEYS, TOKENS, SECOND_LEFT, OFFSETS, OFFSET_BLOCK, REPEATS, ROWS,
            HAS_SEGMENTS,
        )  # fmt: skip
        composed = compose_rows(query, second_key, place, second, seen, D, DP, PARTS)
        composed = (composed * (scale * 1.4426950408889634)).to(keys.dtype)
        paired = load_tile(output_grad, place, seen, D, DP).to(tl.float32)
        paired = (paired * load_tile(second_value, second, seen, D, DP).to(tl.float32)).to(keys.dtype)
        bias = offset_bias + head * OFFSETS + offset
        shift = shifts(log_sum + place, bias, seen, HAS_BIAS)
        row_delta = tl.load(delta + place, mask=seen, other=0.0)
        weights = tl.exp2(tl.dot(keys, tl.trans(composed), input_precision=PRECISION) - shift[None, :])
        if MASKED:
            distance = j[:, None] - (KEYS - QUERIES + i)[None, :]
            visible = sees(distance, j[:, None], segment[None, :], segments, KEYS, TOKENS, left, right, HAS_SEGMENTS)
            weights = tl.where(visible, weights, 0.0)
        slopes = weights * (tl.dot(values, tl.trans(paired), input_precision=PRECISION) - row_delta[None, :])
        value_grad += tl.dot(weights.to(keys.dtype), paired, input_precision=PRECISION)
        key_grad += tl.dot(slopes.to(keys.dtype), composed, input_precision=PRECISION)
    return key_grad, value_grad


@jit
def simplicial_backward_key(
    query, key, value, second_key, second_value, offset_bias, segments, output_grad, log_sum, delta,
    key_grad, value_grad,
    QUERIES, KEYS, SECOND_KEYS, TOKENS, GROUPS, left, right, scale, SECOND_LEFT, OFFSETS,
    OFFSET_BLOCK: tl.constexpr, REPEATS: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, PARTS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program: a tile of keys of one key head. Writes key_grad and value_grad (B, G, K, D)."""
    PAIRS: tl.constexpr = ROWS // OFFSET_BLOCK
    tiles = tl.cdiv(KEYS, TILE)
    first_key = tl.program_id(0) % tiles * TILE
    group = (tl.program_id(0) // tiles).to(tl.int64)
    vectors = group * REPEATS * QUERIES
    second_key += group * SECOND_KEYS * D
    second_value += group * SECOND_KEYS * D
    segments += group // GROUPS * TOKENS
    offset_bias += group % GROUPS * REPEATS * OFFSETS
    j = first_key + tl.arange(0, TILE)
    keys = load_tile(key + group * KEYS * D, j, j < KEYS, D, DP)
    values = load_tile(value + group * KEYS * D, j, j < KEYS, D, DP)

    # The queries that see some key of the tile, and those that see all of them.
    low = first_key - right - (KEYS - QUERIES)
    high = first_key + TILE + left - (KEYS - QUERIES)
    full_low = tl.maximum(low + TILE - 1, 0) * REPEATS
    full_high = tl.maximum(high - TILE + 1, 0) * REPEATS
    low = tl.minimum(tl.maximum(low, 0), QUERIES) * REPEATS
    high = tl.maximum(tl.minimum(high, QUERIES) * REPEATS, low)
    full_low, full_high = tiles_within(low, high, full_low, full_high, PAIRS)
    bounds = (low, high) if HAS_SEGMENTS else (low, full_low, full_high, high)
    key_sum = tl.zeros((TILE, DP), tl.float32)
    value_sum = tl.zeros((TILE, DP), tl.float32)
    for span in tl.static_range(1 if HAS_SEGMENTS else 3):
        key_sum, value_sum = spread(
            key_sum, value_sum, keys, values, j, query + vectors * D, second_key, second_value, offset_bias, segments,
            output_grad + vectors * D, log_sum + vectors, delta + vectors, bounds[span], bounds[span + 1], QUERIES,
            KEYS, SECOND_KEYS, TOKENS, left, right, scale, SECOND_LEFT, OFFSETS, OFFSET_BLOCK, REPEATS, D, DP, PARTS,
            HAS_BIAS, HAS_SEGMENTS, PRECISION, ROWS, HAS_SEGMENTS or span != 1,
        )  # fmt: skip
    key_sum *= 0.6931471805599453  # the rows hold the factor log2(e)
    feature = tl.arange(0, DP)
    stored = (j < KEYS)[:, None] & (feature < D)[None, :]
    at = group * KEYS * D + j[:, None] * D + feature[None, :]
    tl.store(key_grad + at, key_sum.to(key_grad.dtype.element_ty), mask=stored)
    tl.store(value_grad + at, value_sum.to(value_grad.dtype.element_ty), mask=stored)
