"""The forward kernel of 2-simplicial attention: a flash-attention loop over rows of composed queries."""

# Shapes: B batch, H heads, G key-value heads, Q queries, K keys, M second keys, D head size, P parts of the keys,
# R rows (see fold_rows).
# pyright: reportInvalidTypeForm=false

from .rows import compose_rows, fold_rows, jit, load_tile, sees, tiles_within, tl


@jit
def attend(
    weighted, highest, total, composed, key, value, segments, anchor, segment, low, high, KEYS, TOKENS, left, right,
    D: tl.constexpr, DP: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds the tiles of keys from `low` to `high` to the running softmax (in base 2) of each row."""
    for start in range(low, high, TILE):
        j = start + tl.arange(0, TILE)
        keys = load_tile(key, j, j < KEYS, D, DP)
        logits = tl.dot(composed, tl.trans(keys), input_precision=PRECISION)
        if MASKED:
            distance = j[None, :] - anchor[:, None]
            seen = sees(distance, j[None, :], segment[:, None], segments, KEYS, TOKENS, left, right, HAS_SEGMENTS)
            logits = tl.where(seen, logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        weights = tl.exp2(logits - higher[:, None])
        rescale = tl.exp2(highest - higher)
        total = total * rescale + tl.sum(weights, 1)
        values = load_tile(value, j, j < KEYS, D, DP)
        weighted *= rescale[:, None]
        weighted += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        highest = higher
    return weighted, highest, total


@jit
def simplicial_forward(
    query, key, value, second_key, second_value, offset_bias, segments, output, log_sum,
    QUERIES, KEYS, SECOND_KEYS, TOKENS, GROUPS, left, right, scale, splits, SECOND_LEFT, OFFSETS,
    OFFSET_BLOCK: tl.constexpr, REPEATS: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, PARTS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program: some queries of the heads that share a key head, and one of `splits` parts of the keys they see.

    Writes output (P, B, H, Q, D) and the natural log-sum-exp (P, B, H, Q), each part's own.
    """
    PAIRS: tl.constexpr = ROWS // OFFSET_BLOCK
    blocks = tl.cdiv(QUERIES * REPEATS, PAIRS)
    first_pair = tl.program_id(0) % blocks * PAIRS
    group = (tl.program_id(0) // blocks).to(tl.int64)
    batch, split = group // GROUPS, tl.program_id(1)
    query += group * REPEATS * QUERIES * D
    key += group * KEYS * D
    value += group * KEYS * D
    second_key += group * SECOND_KEYS * D
    second_value += group * SECOND_KEYS * D
    segments += batch * TOKENS

    i, head, place, offset, second, seen, segment = fold_rows(
        first_pair, segments, QUERIES, SECOND_KEYS, TOKENS, SECOND_LEFT, OFFSETS, OFFSET_BLOCK, REPEATS, ROWS,
        HAS_SEGMENTS,
    )  # fmt: skip
    composed = compose_rows(query, second_key, place, second, seen, D, DP, PARTS)
    composed = (composed * (scale * 1.4426950408889634)).to(key.dtype.element_ty)

    anchor = KEYS - QUERIES + i
    first_anchor = KEYS - QUERIES + first_pair // REPEATS
    last_anchor = KEYS - QUERIES + (first_pair + PAIRS - 1) // REPEATS
    low = tl.maximum(first_anchor - left, 0)
    high = tl.minimum(last_anchor + right + 1, KEYS)
    length = tl.cdiv(high - low, splits * TILE) * TILE
    low = tl.minimum(low + split * length, high)
    high = tl.minimum(low + length, high)
    full_low, full_high = tiles_within(low, high, last_anchor - left, first_anchor + right + 1, TILE)
    bounds = (low, high) if HAS_SEGMENTS else (low, full_low, full_high, high)
    weighted = tl.zeros((ROWS, DP), tl.float32)
    highest = tl.full((ROWS,), -1e30, tl.float32)  # finite: a row that sees nothing must not subtract infinities
    total = tl.zeros((ROWS,), tl.float32)
    for span in tl.static_range(1 if HAS_SEGMENTS else 3):
        weighted, highest, total = attend(
            weighted, highest, total, composed, key, value, segments, anchor, segment, bounds[span], bounds[span + 1],
            KEYS, TOKENS, left, right, D, DP, TILE, HAS_SEGMENTS or span != 1, HAS_SEGMENTS, PRECISION,
        )  # fmt: skip

    total_or_one = tl.where(total > 0, total, 1.0)
    row_sum = tl.where(seen & (total > 0), highest + tl.log2(total_or_one), float("-inf"))
    if HAS_BIAS:
        head += (group % GROUPS).to(tl.int32) * REPEATS
        bias = tl.load(offset_bias + head * OFFSETS + offset, mask=seen, other=0.0)
        row_sum += bias.to(tl.float32) * 1.4426950408889634
    by_pair = tl.reshape(row_sum, (PAIRS, OFFSET_BLOCK))
    peak = tl.maximum(tl.max(by_pair, 1), -1e30)
    mass = tl.sum(tl.exp2(by_pair - peak[:, None]), 1)
    joint = tl.where(mass > 0, peak + tl.log2(tl.where(mass > 0, mass, 1.0)), float("-inf"))
    share = tl.exp2(by_pair - tl.where(mass > 0, joint, 0.0)[:, None])
    weighted *= (tl.reshape(share, (ROWS,)) / total_or_one)[:, None]
    weighted *= load_tile(second_value, second, seen, D, DP).to(tl.float32)
    result = tl.sum(tl.reshape(weighted, (PAIRS, OFFSET_BLOCK, DP)), 1)

    pair = first_pair + tl.arange(0, PAIRS)
    place = (pair % REPEATS).to(tl.int64) * QUERIES + pair // REPEATS
    groups = tl.num_programs(0) // blocks
    base = (split.to(tl.int64) * groups + group) * REPEATS * QUERIES
    feature = tl.arange(0, DP)
    stored = (pair < QUERIES * REPEATS)[:, None] & (feature < D)[None, :]
    tl.store(
        output + base * D + place[:, None] * D + feature[None, :], result.to(output.dtype.element_ty), mask=stored
    )
    tl.store(log_sum + base + place, joint * 0.6931471805599453, mask=pair < QUERIES * REPEATS)


@jit
def merge_parts(
    parts, part_sums, output, log_sum, VECTORS, D: tl.constexpr, DP: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    """Merges parts of the keys that were attended to apart, so that a few queries keep a whole GPU busy.

    Output (B, H, Q, D) and log_sum (B, H, Q) come from parts (P, B, H, Q, D) and their log-sum-exps (P, B, H, Q).
    One program for each of the B * H * Q `VECTORS`.
    """
    vector = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, SPLITS)
    feature = tl.arange(0, DP)
    sums = tl.load(part_sums + part * VECTORS + vector)
    peak = tl.maximum(tl.max(sums, 0), -1e30)
    shares = tl.exp(sums - peak)
    mass = tl.sum(shares, 0)
    outputs = tl.load(
        parts + (part[:, None] * VECTORS + vector) * D + feature[None, :], mask=(feature < D)[None, :], other=0.0
    )
    result = tl.sum(outputs * shares[:, None], 0) / tl.where(mass > 0, mass, 1.0)
    tl.store(output + vector * D + feature, result.to(output.dtype.element_ty), mask=feature < D)
    tl.store(log_sum + vector, tl.where(mass > 0, peak + tl.log(tl.where(mass > 0, mass, 1.0)), float("-inf")))
