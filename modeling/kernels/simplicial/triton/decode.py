"""Merges the parts of the keys that were attended to apart, so that a few queries keep a whole GPU busy."""

# Shapes: B batch, H heads, Q queries, D head size, P parts of the keys.
# pyright: reportInvalidTypeForm=false

from .rows import jit, tl


@jit
def merge_parts(
    parts, part_sums, output, log_sum, VECTORS, D: tl.constexpr, DP: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    """Output (B, H, Q, D) and log_sum (B, H, Q) from parts (P, B, H, Q, D) and their log-sum-exps (P, B, H, Q).

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
