"""2-simplicial attention, straight from its definition: one einsum over all triples. Slow, and the truth."""

# Shapes: B batch, H heads, G key-value heads, Q queries, K keys, M second keys, D head size.

import torch

from trine.modeling.kernels.simplicial.forms import Window


def trilinear_logits(query: torch.Tensor, key: torch.Tensor, second_key: torch.Tensor, form: str) -> torch.Tensor:
    """A[i, j, k] of (..., Q, D), (..., K, D) and (..., M, D), unscaled: (..., Q, K, M)."""
    if form == "hadamard":
        return torch.einsum("...id,...jd,...kd->...ijk", query, key, second_key)
    if form == "complex":  # real part of q * conj(k) * conj(k'), on pairs
        q, k, s = (torch.complex(*states.chunk(2, dim=-1)) for states in (query, key, second_key))
        return torch.einsum("...id,...jd,...kd->...ijk", q, k.conj(), s.conj()).real
    assert form == "determinant"
    q, k, s = (torch.stack(states.chunk(3, dim=-1), dim=-1) for states in (query, key, second_key))
    matrices = torch.stack(
        torch.broadcast_tensors(
            q[..., :, None, None, :, :],
            k[..., None, :, None, :, :],
            s[..., None, None, :, :, :],
        ),
        dim=-1,
    )
    return torch.linalg.det(matrices).sum(dim=-1)


def simplicial_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    second_key: torch.Tensor,
    second_value: torch.Tensor,
    offset_bias: torch.Tensor | None = None,
    segments: torch.Tensor | None = None,
    *,
    first: Window,
    second: Window,
    form: str,
    scale: float,
    return_marginals: bool = False,
):
    """Output (B, H, Q, D) and, if asked for, the marginals (B, H, Q, K) and (B, H, Q, M).

    Source: Roy et al. 2025, arXiv 2507.02754, equations 5 to 9.
    """
    batch, heads, queries, _ = query.shape
    repeat = heads // key.shape[1]
    key, value, second_key, second_value = (
        states.repeat_interleave(repeat, dim=1) for states in (key, value, second_key, second_value)
    )
    keys, second_keys = key.shape[2], second_key.shape[2]
    rows = torch.arange(queries)[:, None]
    first_distance = torch.arange(keys) - (keys - queries) - rows
    second_distance = torch.arange(second_keys) - (second_keys - queries) - rows
    sees_first = ((first_distance >= -first.left) & (first_distance <= first.right))[None].expand(batch, -1, -1)
    sees_second = ((second_distance >= -second.left) & (second_distance <= second.right))[None].expand(batch, -1, -1)
    if segments is not None:
        own = segments[:, segments.shape[1] - queries :, None]
        sees_first = sees_first & (own == segments[:, None, segments.shape[1] - keys :]) & (own > 0)
        sees_second = sees_second & (own == segments[:, None, segments.shape[1] - second_keys :]) & (own > 0)
    logits = trilinear_logits(query, key, second_key, form) * scale
    if offset_bias is not None:
        index = (second_distance + second.left).clamp(0, second.size - 1)
        logits = logits + offset_bias[:, index][None, :, :, None, :]
    seen = (sees_first[:, :, :, None] & sees_second[:, :, None, :])[:, None]
    logits = logits.masked_fill(~seen, torch.finfo(logits.dtype).min)
    weights = logits.flatten(-2).softmax(dim=-1).view_as(logits).masked_fill(~seen, 0)
    output = torch.einsum("bhijk,bhjd,bhkd->bhid", weights, value, second_value)
    return (output, weights.sum(-1), weights.sum(-2)) if return_marginals else output
