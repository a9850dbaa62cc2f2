"""Banded attention: a token sees a neighbourhood, at a cost that is linear in the length."""

# Shapes: B batch, H query heads, G key-value heads, N tokens, D head size; T blocks of C tokens, W keys around each.

from typing import NamedTuple

import torch
from torch import nn

from ..autocast import in_float32


class BandedMask(NamedTuple):
    """A band mask: the keys that each token of a block sees in the blocks around it.

    Attributes:
        visible: (B or 1, T, C, W), where the W keys are those of `back` blocks, the block itself and `ahead` blocks.
        back: Number of visible blocks before a block.
        ahead: Number of visible blocks after a block.
    """

    visible: torch.Tensor
    back: int
    ahead: int

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: None,
        scaling: float,
        dropout: float = 0.0,
        **kwargs,
    ) -> tuple[torch.Tensor, None]:
        """`banded_attention` behind transformers' attention interface: (B, N, H, D), and no weights."""
        return banded_attention(query, key, value, self, scale=scaling, dropout=dropout), None


def banded_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: BandedMask,
    *,
    scale: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Softmax attention with a band mask: blocks of tokens are the batch of PyTorch's own kernel.

    Cost O(N * W).

    Args:
        query: (B, H, N, D).
        key: (B, G, N, D), as is `value`.
        scale: Factor on the scores.
        dropout: Probability with which a weight is dropped.

    Returns:
        (B, N, H, D).
    """
    batch, heads, length, size = query.shape
    _, num_blocks, block, width = mask.visible.shape
    rest = num_blocks * block - length
    query = nn.functional.pad(query, (0, 0, 0, rest)).view(batch, heads, num_blocks, block, size)
    key, value = (surround(states, block, rest, mask.back, mask.ahead) for states in (key, value))
    repeat = heads // key.shape[2]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, dim=2), value.repeat_interleave(repeat, dim=2)
    visible = mask.visible.expand(batch, -1, -1, -1).reshape(-1, 1, block, width)
    output = in_float32(
        nn.functional.scaled_dot_product_attention,
        *(query.transpose(1, 2).flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)),
        attn_mask=visible,
        dropout_p=dropout,
        scale=scale,
    )
    return output.transpose(1, 2).reshape(batch, -1, heads, size)[:, :length]


def surround(states: torch.Tensor, block: int, rest: int, back: int, ahead: int) -> torch.Tensor:
    """Joins each block of (B, G, N, D) with its neighbours: (B, T, G, W, D). The last block lacks `rest` tokens."""
    padded = nn.functional.pad(states, (0, 0, back * block, rest + ahead * block))
    blocks = padded.unflatten(2, (-1, block)).transpose(1, 2)
    num_blocks = blocks.shape[1] - back - ahead
    return torch.cat([blocks[:, start : start + num_blocks] for start in range(back + 1 + ahead)], dim=3)
