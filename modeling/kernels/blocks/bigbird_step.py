"""BigBird attention of the last token of a text alone: a step of decoding, which reads only the tokens it sees."""

# Shapes: B batch, R rows of a table (1 where all sequences of a batch are alike), H query heads, G key-value heads,
# K keys, D head size, N tokens that a query sees.

import torch

from .bigbird_layout import BigBirdPattern, seen_blocks


def step_tokens(
    pattern: BigBirdPattern,
    draws: torch.Tensor | None,
    padding: torch.Tensor | None,
    num_keys: int,
    device: torch.device,
) -> torch.Tensor:
    """The tokens that the last of K sees, (R, 1 or H, N), or -1 for none; N follows from the pattern alone.

    Args:
        padding: True for tokens, (B, K), or None.
    """
    start = torch.zeros(1, 1, dtype=torch.long, device=device)
    if padding is not None:
        start = padding.int().argmax(1, keepdim=True)
    own = (num_keys - 1 - start) // pattern.block_size
    blocks = seen_blocks(pattern, own, own + 1, draws)[:, :, 0, :, None]  # (R, 1 or H, L, 1)
    tokens = blocks * pattern.block_size + torch.arange(pattern.block_size, device=device)
    tokens = tokens.flatten(2) + start[..., None]
    real = (blocks >= 0).expand(-1, -1, -1, pattern.block_size).flatten(2) & (tokens < num_keys)
    if padding is not None:
        index = tokens.clamp(0, num_keys - 1)
        real = real & padding[:, None].expand(-1, index.shape[1], -1).gather(2, index)
    return torch.where(real, tokens, -1)


def bigbird_step(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tokens: torch.Tensor,
    has_query: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Softmax attention to `tokens`, at a cost of H * N * D whatever K is.

    Args:
        query: (B, H, 1, D).
        key: (B, G, K, D), as is `value`; a view of a longer buffer is not copied.
        tokens: (R, 1 or H, N).
        has_query: (B,), False where the query is padding, whose output is 0; or None.

    Returns:
        (B, 1, H * D).
    """
    batch, heads = query.shape[:2]
    rows = torch.arange(batch, device=query.device)[:, None, None]
    groups = torch.arange(heads, device=query.device)[:, None] // (heads // key.shape[1])
    index = rows, groups, tokens.clamp(min=0)
    visible = tokens >= 0
    if has_query is not None:
        visible = visible | ~has_query[:, None, None]
    visible = visible.expand(batch, heads, -1)[:, :, None]
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key[index], value[index], attn_mask=visible, scale=scale
    )
    if has_query is not None:
        output = output.masked_fill(~has_query[:, None, None, None], 0.0)
    return output.transpose(1, 2).flatten(2)
