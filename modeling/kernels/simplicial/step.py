"""2-simplicial attention of one query alone: a step of decoding, whose time is the number of its operators."""

# Shapes: B batch, H heads, G key-value heads, R = H / G, K keys, M second keys, D head size.

import torch
from torch import Tensor

from .forms import FORMS
from .inputs import SimplicialInputs


def simplicial_step(inputs: SimplicialInputs) -> Tensor:
    """The attention of `simplicial_chunked`, (B, H, 1, D), for the last token of a text.

    Memory: H * K * M numbers, for the K and M tokens of both windows.
    """
    query, key, value, second_key, second_value, offset_bias, segments, first, second, form, scale = inputs
    if key.shape[2] > first.left + 1:
        key, value = key[:, :, -first.left - 1 :], value[:, :, -first.left - 1 :]
    if second_key.shape[2] > second.left + 1:
        second_key, second_value = second_key[:, :, -second.left - 1 :], second_value[:, :, -second.left - 1 :]
    batch, groups, length, size = key.shape
    seconds = second_key.shape[2]
    rows = query.view(batch, groups, -1, 1, size)
    composed = FORMS[form].compose(rows, second_key[:, :, None]).view(batch * groups, -1, size)  # (B G, R M, D)
    keys = key.flatten(0, 1).mT
    if offset_bias is None:
        logits = torch.bmm(composed * scale, keys)
    else:  # added by the product itself
        bias = offset_bias if seconds > second.left else offset_bias[:, second.left + 1 - seconds : second.left + 1]
        bias = bias.to(composed.dtype).reshape(groups, -1, 1)
        logits = torch.baddbmm(bias if batch == 1 else bias.repeat(batch, 1, 1), composed, keys, alpha=scale)
    logits = logits.view(batch, query.shape[1], -1)
    if segments is not None:
        hidden = ~sees_both(segments, length, seconds).flatten(2)
        logits = logits.masked_fill(hidden, torch.finfo(logits.dtype).min)
    weights = logits.softmax(dim=-1).view(batch * groups, -1, length)
    mixed = torch.bmm(weights, value.flatten(0, 1)).view(batch, groups, -1, seconds, size)
    output = (mixed * second_value[:, :, None]).sum(dim=-2).view(query.shape)
    return output if segments is None else output.masked_fill((segments[:, -1] == 0)[:, None, None, None], 0)


def sees_both(segments: Tensor, length: int, seconds: int) -> Tensor:
    """Booleans (B, 1, M, K): whether both tokens of a pair belong to the last token's segment."""
    same = segments == segments[:, -1:]
    return (same[:, -seconds:, None] & same[:, None, -length:])[:, None]
