"""The backward kernel of 2-simplicial attention for queries, second keys and values, and offset biases.

Its rows are those of the forward kernel, and stay while the tiles of first keys pass. Only the sums that are left at
the end are carried back through the trilinear form.
"""

# Shapes: B batch, H heads, Q queries, M second keys, D head size, R rows (see fold_rows), U second keys that the rows
# of a program see, N programs of a head.
# pyright: reportInvalidTypeForm=false

from .rows import coefficient, compose_rows, fold_rows, jit, load_tile, sees, shifts, tiles_within, tl, unshift


@jit
def collect(
    composed_grad, mixed, slope_sum, composed, paired, shift, delta, key, value, segments, anchor, segment, low, high,
    KEYS, TOKENS, left, right, D: tl.constexpr, DP: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds the tiles of keys from `low` to `high` to each row's sums over first keys.

    With p the probability of a triple and s the gradient of its logit: s * key, p * value, and s.
    """
    for start in range(low, high, TILE):
        j = start + tl.arange(0, TILE)
        keys = load_tile(key, j, j < KEYS, D, DP)
        values = load_tile(value, j, j < KEYS, D, DP)
        weights = tl.exp2(tl.dot(composed, tl.trans(keys), input_precision=PRECISION) - shift[:, None])
        if MASKED:
            distance = j[None, :] - anchor[:, None]
            seen = sees(distance, j[None, :], segment[:, None], segments, KEYS, TOKENS, left, right, HAS_SEGMENTS)
            weights = tl.where(seen, weights, 0.0)
        slopes = weights * (tl.dot(paired, tl.trans(values), input_precision=PRECISION) - delta[:, None])
        slope_sum += tl.sum(slopes, 1)
        composed_grad += tl.dot(slopes.to(keys.dtype), keys, input_precision=PRECISION)
        mixed += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
    return composed_grad, mixed, slope_sum


@jit
def select(one_hot, x):
    """The product of `one_hot` (U, R) and x (R, DP), which is split into two numbers of its type to lose little."""
    leading = x.to(one_hot.dtype)
    result = tl.dot(one_hot, leading, input_precision="ieee")
    if one_hot.dtype != tl.float32:
        result += tl.dot(one_hot, (x - leading.to(tl.float32)).to(one_hot.dtype))
    return result


@jit
def add_rows(pointer, x, place, second, inside, D: tl.constexpr, DP: tl.constexpr, SEPARATELY: tl.constexpr):
    """Adds x (U, DP) to rows `second` of (M, D), or stores it as rows `place` of a buffer of its own."""
    feature = tl.arange(0, DP)
    is_feature = (feature < D)[None, :]
    if SEPARATELY:
        tl.store(pointer + place[:, None] * D + feature[None, :], x, mask=is_feature)
    else:
        mask = inside[:, None] & is_feature
        tl.atomic_add(pointer + second[:, None] * D + feature[None, :], x, mask=mask, sem="relaxed")


@jit
def simplicial_backward_query(
    query, key, value, second_key, second_value, offset_bias, segments, output_grad, log_sum, delta,
    query_grad, second_key_grad, second_value_grad, bias_grad,
    QUERIES, KEYS, SECOND_KEYS, TOKENS, GROUPS, left, right, scale, SECOND_LEFT, OFFSETS,
    OFFSET_BLOCK: tl.constexpr, REPEATS: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, PARTS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr, SEPARATELY: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program: some queries of one head.

    Writes query_grad (B, H, Q, D) and bias_grad (B, H, N, T); second_key_grad and second_value_grad, both float32, are
    added to as (B, G, M, D), or written as (B, H, N, U, D) if `SEPARATELY`; U is `SPAN`.
    """
    PAIRS: tl.constexpr = ROWS // OFFSET_BLOCK
    blocks = tl.cdiv(QUERIES, PAIRS)
    first_query = tl.program_id(0) % blocks * PAIRS
    head = (tl.program_id(0) // blocks).to(tl.int64)
    group = head // REPEATS
    query += head * QUERIES * D
    output_grad += head * QUERIES * D
    key += group * KEYS * D
    value += group * KEYS * D
    second_key += group * SECOND_KEYS * D
    second_value += group * SECOND_KEYS * D
    segments += group // GROUPS * TOKENS

    i, _, place, offset, second, seen, segment = fold_rows(
        first_query, segments, QUERIES, SECOND_KEYS, TOKENS, SECOND_LEFT, OFFSETS, OFFSET_BLOCK, 1, ROWS, HAS_SEGMENTS
    )
    composed = compose_rows(query, second_key, place, second, seen, D, DP, PARTS)
    composed = (composed * (scale * 1.4426950408889634)).to(key.dtype.element_ty)
    paired = load_tile(output_grad, place, seen, D, DP).to(tl.float32)
    paired = (paired * load_tile(second_value, second, seen, D, DP).to(tl.float32)).to(key.dtype.element_ty)
    bias = offset_bias + head % (GROUPS * REPEATS) * OFFSETS + offset
    shift = shifts(log_sum + head * QUERIES + place, bias, seen, HAS_BIAS)
    row_delta = tl.load(delta + head * QUERIES + place, mask=seen, other=0.0)

    anchor = KEYS - QUERIES + i
    first_anchor = KEYS - QUERIES + first_query
    last_anchor = first_anchor + PAIRS - 1
    low = tl.maximum(first_anchor - left, 0)
    high = tl.minimum(last_anchor + right + 1, KEYS)
    full_low, full_high = tiles_within(low, high, last_anchor - left, first_anchor + right + 1, TILE)
    bounds = (low, high) if HAS_SEGMENTS else (low, full_low, full_high, high)
    composed_grad = tl.zeros((ROWS, DP), tl.float32)
    mixed = tl.zeros((ROWS, DP), tl.float32)
    slope_sum = tl.zeros((ROWS,), tl.float32)
    for span in tl.static_range(1 if HAS_SEGMENTS else 3):
        composed_grad, mixed, slope_sum = collect(
            composed_grad, mixed, slope_sum, composed, paired, shift, row_delta, key, value, segments, anchor, segment,
            bounds[span], bounds[span + 1], KEYS, TOKENS, left, right, D, DP, TILE, HAS_SEGMENTS or span != 1,
            HAS_SEGMENTS, PRECISION,
        )  # fmt: skip

    # Rows of equal i + t share a second key: they are summed first, by a product with a matrix of zeros and ones.
    row = tl.arange(0, ROWS)
    u = tl.arange(0, SPAN)
    one_hot = ((row // OFFSET_BLOCK + row % OFFSET_BLOCK)[None, :] == u[:, None]) & seen[None, :]
    one_hot = one_hot.to(key.dtype.element_ty)
    span_second = SECOND_KEYS - QUERIES + first_query - SECOND_LEFT + u
    inside = (span_second >= 0) & (span_second < SECOND_KEYS) & (u < PAIRS + OFFSETS - 1)
    if SEPARATELY:
        second_key_grad += tl.program_id(0).to(tl.int64) * SPAN * D
        second_value_grad += tl.program_id(0).to(tl.int64) * SPAN * D
    else:
        second_key_grad += group * SECOND_KEYS * D
        second_value_grad += group * SECOND_KEYS * D
    mixed *= load_tile(output_grad, place, seen, D, DP).to(tl.float32)
    add_rows(second_value_grad, select(one_hot, mixed), u, span_second, inside, D, DP, SEPARATELY)
    composed_grad *= scale
    query_sum = tl.zeros((PAIRS, DP), tl.float32)
    second_sum = tl.zeros((SPAN, DP), tl.float32)
    for term in tl.static_range(1 if PARTS == 1 else 2):
        product = composed_grad * coefficient(second_key, second, seen, term, True, D, DP, PARTS)
        query_sum += unshift(tl.sum(tl.reshape(product, (PAIRS, OFFSET_BLOCK, DP)), 1), term, D, DP, PARTS)
        product = composed_grad * coefficient(query, place, seen, term, False, D, DP, PARTS)
        second_sum += unshift(select(one_hot, product), term, D, DP, PARTS)
    add_rows(second_key_grad, second_sum, u, span_second, inside, D, DP, SEPARATELY)
    pair = first_query + tl.arange(0, PAIRS)
    feature = tl.arange(0, DP)
    stored = (pair < QUERIES)[:, None] & (feature < D)[None, :]
    query_grad += head * QUERIES * D + pair[:, None] * D + feature[None, :]
    tl.store(query_grad, query_sum.to(query_grad.dtype.element_ty), mask=stored)
    if HAS_BIAS:
        by_offset = tl.arange(0, OFFSET_BLOCK)
        bias_grad += tl.program_id(0).to(tl.int64) * OFFSETS + by_offset
        tl.store(bias_grad, tl.sum(tl.reshape(slope_sum, (PAIRS, OFFSET_BLOCK)), 0), mask=by_offset < OFFSETS)
