"""BigBird attention of the last token of a text alone: a step of decoding, which reads only the tokens it sees."""

# Shapes: B batch, R rows of a table (1 where all sequences of a batch are alike), H query heads, G key-value heads,
# K keys, D head size, N tokens that a query sees.

from typing import Any
from weakref import WeakKeyDictionary

import torch

from .bigbird_layout import BigBirdPattern, seen_blocks


# Of each layer of a cache what its table was made for, and the rows of its buffer that the tokens of one block see,
# those of the block itself last: (B * heads, N). No attribute of the layer, which transformers' exporters take for an
# output.
TABLES: WeakKeyDictionary[Any, tuple[tuple[Any, ...], torch.Tensor]] = WeakKeyDictionary()


def visible_states(
    pattern: BigBirdPattern,
    draws: torch.Tensor | None,
    key: torch.Tensor,
    value: torch.Tensor,
    cache_layer: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values (B, G or H, N, D) that the last token sees in a text without padding; nothing is hidden in them.

    What a block sees does not change within it, and all heads see equally many tokens: the table of them is made once
    a block, and read up to the last token.

    Args:
        pattern: Numbers of blocks.
        draws: (H, rows, random blocks), or None without random blocks.
        key: (B, G, K, D), as is `value`; a view of a longer buffer is not copied.
        cache_layer: What holds them, for which the table is remembered.
    """
    batch, groups, num_keys, size = key.shape
    own, place = divmod(num_keys - 1, pattern.block_size)
    if own < pattern.head + pattern.num_window + pattern.num_random:  # all blocks so far
        return key, value
    heads = groups if draws is None else len(draws)
    (keys, room), (values, value_room) = rows_of(key), rows_of(value)
    if room != value_room:
        (keys, room), (values, _) = rows_of(key.contiguous()), rows_of(value.contiguous())
    made_for = own, batch, room, key.device
    known, rows = TABLES.get(cache_layer, (None, key))
    if known != made_for:
        starts = torch.arange(batch * heads, device=key.device)[:, None] // (heads // groups) * room
        rows = starts + block_tokens(pattern, draws, own, key.device).expand(heads, -1).repeat(batch, 1)
        TABLES[cache_layer] = made_for, rows
    rows, shape = rows[:, : rows.shape[1] - pattern.block_size + place + 1].flatten(), (batch, heads, -1, size)
    return keys.index_select(0, rows).view(shape), values.index_select(0, rows).view(shape)


def rows_of(states: torch.Tensor) -> tuple[torch.Tensor, int]:
    """States (B, G, K, D) as a table of rows (.., D), of which whole ones are copied fast, and the rows of a head.

    A view of a longer buffer is not copied.
    """
    batch, groups, length, size = states.shape
    head = states.stride(1)
    if states.stride()[2:] != (size, 1) or head % size or batch > 1 and states.stride(0) != groups * head:
        states, head = states.contiguous(), length * size
    last = (batch * groups - 1) * (head // size) + length
    return states.as_strided((last, size), (size, 1)), head // size


def block_tokens(pattern: BigBirdPattern, draws: torch.Tensor | None, own: int, device: torch.device) -> torch.Tensor:
    """The tokens that block `own` of a text sees, (1 or H, N): complete blocks, and itself at the end.

    How many blocks there are follows from `own` alone, so it is read from a table on the CPU, without waiting for an
    accelerator.
    """
    here, elsewhere = torch.tensor([[own]]), torch.tensor([[own]], device=device)
    any_draws = None if draws is None else torch.zeros(1, 1, pattern.num_random, dtype=torch.int32)
    known = seen_blocks(pattern, here, here + 1, any_draws)[0, 0, 0].tolist()
    kept = [place for place, block in enumerate(known) if block >= 0 and block != own] + [known.index(own)]
    blocks = seen_blocks(pattern, elsewhere, elsewhere + 1, draws)[0, :, 0, kept, None]
    return (blocks * pattern.block_size + torch.arange(pattern.block_size, device=device)).flatten(1)


def step_tokens(
    pattern: BigBirdPattern,
    draws: torch.Tensor | None,
    padding: torch.Tensor | None,
    num_keys: int | torch.Tensor,
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
        index = tokens.clamp(0, padding.shape[1] - 1)
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
