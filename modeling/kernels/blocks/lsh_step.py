"""LSH attention of the last token of a text alone: a step of decoding, in few operators."""

# Shapes: B batch, H query heads, G key-value heads, K keys, D head size, R hashes.

from typing import NamedTuple

import torch
from torch import Tensor

from ...checks.ids import may_be_any
from .sparse import SELF_SCORE


class StepInputs(NamedTuple):
    """Tensors of a step.

    `query` (B, H, 1, D), `key` (B, H, K, D), `value` (B, G, K, D), `buckets` (B, H, R, K), and `is_token` (B, N),
    False for padding, or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    buckets: Tensor
    is_token: Tensor | None


def lsh_step(inputs: StepInputs, count: int | Tensor, chunk_length: int, adjacent: int, scale: float) -> Tensor:
    """Softmax attention to what all hashes together find, (B, H, 1, D).

    To merge the hashes by the sums of their weights is one softmax in which a key counts as often as a hash finds it.
    Buckets are compared with all tokens' at any rate; so one call of softmax attention reads all keys, too.

    Args:
        inputs: Tensors.
        count: N, the number of tokens: K, or in a static cache a tensor, as there are places for more.
        chunk_length: Tokens of a bucket that make a chunk.
        adjacent: Chunks that a token reaches before its own.
        scale: Factor on the scores.
    """
    query, key, value, buckets, is_token = inputs
    length, is_own = key.shape[2], None  # along the tokens, numbers lie one after the other: counting is fast
    if isinstance(count, Tensor):
        places = torch.arange(length, device=key.device)
        is_own = places == count - 1
        found = (buckets == buckets.index_select(3, (count - 1).view(1))) & (places < count)
        if is_token is not None:
            is_token = torch.nn.functional.pad(is_token, (0, length - is_token.shape[1]))
    else:
        found = buckets == buckets[..., -1:]
    if is_token is not None:
        found = found & is_token[:, None, None]
    reach = (adjacent + 1) * chunk_length  # in a bucket of no more tokens, none is out of reach
    if length > reach and may_be_any(found.view(torch.uint8).sum(dim=3, dtype=torch.int32) > reach):
        numbers = found.cumsum(dim=3, dtype=torch.int32)  # counted from 1 within the bucket
        chunk = (numbers[..., -1:] - 1).div(chunk_length, rounding_mode="floor")
        found = found & (numbers > (chunk - adjacent) * chunk_length)
    counts = found.view(torch.uint8).sum(dim=2, dtype=torch.int32)
    # Of a key that no hash finds, minus infinity, whose logarithm takes long; so there is one for each count.
    logarithms = torch.arange(found.shape[2] + 1, dtype=query.dtype, device=query.device).log()
    bias = logarithms.index_select(0, counts.flatten()).view(counts.shape)
    if is_own is None:
        bias[:, :, -1].fill_(SELF_SCORE)  # itself only for want of others
    else:
        bias = bias.masked_fill(is_own, SELF_SCORE)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias[:, :, None], scale=scale, enable_gqa=key.shape[1] != value.shape[1]
    )
