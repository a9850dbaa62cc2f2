"""2-simplicial attention written out, with the weights that other paths never hold."""

# Shapes: B batch, H heads, G key-value heads, R = H / G, Q queries, K keys, M second keys, D head size,
# T size of the second window.

import torch
from torch.nn import functional

from .forms import FORMS
from .inputs import SimplicialInputs


def simplicial_eager(inputs: SimplicialInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The attention of `simplicial_chunked` for all queries at once, and marginals of its weights.

    Memory: H * Q * T * K numbers, so it is for short texts.

    Returns:
        Output (B, H, Q, D); the weight of each first key, summed over its second keys, (B, H, Q, K); and that of each
        second key, summed over its first keys, (B, H, Q, M). Both sum to 1 over the keys.
    """
    query, key, value, second_key, second_value, offset_bias, segments, first, second, form, scale = inputs
    queries, keys, seconds = query.shape[2], key.shape[2], second_key.shape[2]
    groups = key.shape[1]
    rows = torch.arange(queries, device=query.device)[:, None]
    distance = torch.arange(keys, device=query.device) - (keys - queries) - rows  # (Q, K)
    index = rows + (seconds - queries) + torch.arange(-second.left, second.right + 1, device=query.device)  # (Q, T)
    sees_first = ((distance >= -first.left) & (distance <= first.right))[None]
    sees_second = ((index >= 0) & (index < seconds))[None]
    index = index.clamp(0, seconds - 1)
    if segments is not None:
        own = segments[:, -queries:, None]
        sees_first = sees_first & (own == segments[:, None, -keys:])
        sees_second = sees_second & (own == segments[:, -seconds:][:, index])
    windows, value_windows = second_key[:, :, None, index], second_value[:, :, None, index]  # (B, G, 1, Q, T, D)
    composed = FORMS[form].compose(query.unflatten(1, (groups, -1))[..., None, :], windows)  # (B, G, R, Q, T, D)
    logits = torch.einsum("bgrqtd,bgkd->bgrqtk", composed, key) * scale
    if offset_bias is not None:
        logits = logits + offset_bias.to(logits.dtype).view(groups, -1, 1, offset_bias.shape[-1], 1)
    sees = sees_first[:, :, None] & sees_second[..., None]  # (B or 1, Q, T, K)
    logits = logits.masked_fill(~sees[:, None, None], torch.finfo(logits.dtype).min)
    dtype = torch.promote_types(query.dtype, torch.float32)
    weights = functional.softmax(logits.flatten(-2), dim=-1, dtype=dtype).to(query.dtype).view_as(logits)
    if segments is not None:
        weights = weights.masked_fill((segments[:, None, None, -queries:, None, None] == 0), 0)
    mixed = torch.einsum("bgrqtk,bgkd->bgrqtd", weights, value)
    output = (mixed * value_windows).sum(dim=-2).flatten(1, 2)
    second_weights = weights.sum(dim=-1).flatten(1, 2)  # (B, H, Q, T)
    spread = second_weights.new_zeros(*second_weights.shape[:3], seconds)
    spread = spread.scatter_add(-1, index.expand_as(second_weights), second_weights)
    return output, weights.sum(dim=-2).flatten(1, 2), spread
