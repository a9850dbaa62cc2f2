"""2-simplicial attention by PyTorch's flex attention: a head for each offset of the second key, merged exactly."""

# Shapes: B batch, H heads, G key-value heads, R = H / G, Q queries, K keys, M second keys, D head size,
# T size of the second window.

from functools import lru_cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from .forms import FORMS, Window
from .inputs import SimplicialInputs


@lru_cache(maxsize=1)
def compiled_flex_attention():
    """PyTorch's flex attention, compiled once."""
    return torch.compile(flex_attention, dynamic=False)


def flex_unavailable(query: torch.Tensor, second: Window) -> str | None:
    """The reason why this path cannot serve, or None if it can."""
    if query.device.type == "cpu" and torch.is_grad_enabled() and query.requires_grad:
        return "flex attention has no backward pass on a CPU"
    if query.device.type not in ("cpu", "cuda"):
        return f"flex attention is not tested on {query.device.type!r}"
    return None


def simplicial_flex(inputs: SimplicialInputs) -> torch.Tensor:
    """2-simplicial attention (B, H, Q, D) by T query heads, one for each offset, weighed by their log-sum-exps.

    Memory: T times that of ordinary attention for queries and outputs.
    """
    query, key, value, second_key, second_value, offset_bias, segments, first, second, form, scale = inputs
    batch, heads, queries, size = query.shape
    groups, keys, seconds = key.shape[1], key.shape[2], second_key.shape[2]
    offset = keys - queries
    index = torch.arange(queries, device=query.device) + (seconds - queries)
    index = index + torch.arange(-second.left, second.right + 1, device=query.device)[:, None]  # (T, Q)
    hidden = ((index < 0) | (index >= seconds))[None]
    index = index.clamp(0, seconds - 1)
    if segments is not None:
        own = segments[:, None, -queries:]
        hidden = hidden | (segments[:, -seconds:][:, index] != own) | (own == 0)
    firsts = None if segments is None else segments[:, -keys:]

    def seen(batch_idx, head_idx, q_idx, kv_idx):
        distance = kv_idx - q_idx - offset
        inside = (distance >= -first.left) & (distance <= first.right)
        return inside if firsts is None else inside & (firsts[batch_idx, kv_idx] == firsts[batch_idx, q_idx + offset])

    mask = create_block_mask(seen, None if segments is None else batch, None, queries, keys, device=query.device)
    windows, value_windows = second_key[:, :, None, index], second_value[:, :, None, index]  # (B, G, 1, T, Q, D)
    composed = FORMS[form].compose(query.unflatten(1, (groups, -1))[:, :, :, None], windows)
    attend = flex_attention if query.device.type == "cpu" else compiled_flex_attention()
    output, aux = attend(
        composed.flatten(1, 3).to(value.dtype),  # (B, H * T, Q, D)
        key,
        value,
        block_mask=mask,
        scale=scale,
        enable_gqa=True,
        return_aux=AuxRequest(lse=True),
    )
    log_sum: Any = aux.lse
    logits = log_sum.view(batch, heads, second.size, queries)
    if offset_bias is not None:
        logits = logits + offset_bias.to(logits.dtype)[None, :, :, None]
    logits = logits.masked_fill(hidden[:, None], torch.finfo(logits.dtype).min)
    weights = logits.softmax(dim=2).to(output.dtype)
    output = output.view(batch, groups, -1, second.size, queries, size) * value_windows
    output = (output * weights.view(*output.shape[:-1], 1)).sum(dim=3).flatten(1, 2)
    return output if segments is None else output.masked_fill(segments[:, None, -queries:, None] == 0, 0)
