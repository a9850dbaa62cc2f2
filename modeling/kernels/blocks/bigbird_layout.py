"""The layout of BigBird attention: which blocks see which, as the tables that `block_sparse_attention` reads."""

# Shapes: R rows of a table (1 where all sequences of a batch are alike), H query heads, Q queries, K keys; T blocks of
# M queries each, S blocks of C keys each, L blocks of keys on a list. -1 stands for none in every table.

from typing import NamedTuple

import torch
from transformers.utils.import_utils import is_tracing

from ....configuration.configuration_trine import TrineConfig
from ..exporting.lengths import block_count, block_width


NOT_TRACED = (
    "position_ids of packed sequences cannot be traced by a 'bigbird' layer: its blocks are counted from the "
    "beginning of each sequence, so their number depends on the lengths. Run it without compilation, or give "
    "sequences as rows with an attention_mask."
)


class BigBirdPattern(NamedTuple):
    """Size and numbers of global, window and random blocks, as in the config."""

    block_size: int
    num_global: int
    num_window: int
    num_random: int
    is_causal: bool

    @classmethod
    def of(cls, config: TrineConfig) -> "BigBirdPattern":
        """Reads the pattern from a config."""
        return cls(
            config.bigbird_block_size,
            config.bigbird_num_global_blocks,
            config.bigbird_num_window_blocks,
            config.bigbird_num_random_blocks,
            config.is_causal,
        )

    @property
    def head(self) -> int:
        """Global blocks that begin a text."""
        return self.num_global if self.is_causal else (self.num_global + 1) // 2

    @property
    def tail(self) -> int:
        """Global blocks that end it."""
        return self.num_global - self.head

    @property
    def left(self) -> int:
        """Blocks of the window before a block's own."""
        return self.num_window - 1 if self.is_causal else self.num_window // 2


class Blocks(NamedTuple):
    """Blocks of queries, with the place and length of the sequence that each belongs to."""

    queries: torch.Tensor  # (R, T, M), which query each place holds
    own: torch.Tensor  # (R, T), the block's index in its sequence
    count: torch.Tensor  # (R, T), blocks of the sequence
    first: torch.Tensor  # (R, T), where the table of keys has the first of them


class BigBirdLayout(NamedTuple):
    """Tables of a forward pass: key blocks, and for each call of `block_sparse_attention` query blocks and indices."""

    key_blocks: torch.Tensor  # (R, 1, S, C)
    calls: list[tuple[torch.Tensor, torch.Tensor]]  # (R, 1, T, M) and (R, 1 or H, T, L)
    places: torch.Tensor  # (R, Q), where each query stands among the places (T * M) of all calls


def make_layout(
    pattern: BigBirdPattern,
    draws: torch.Tensor | None,
    is_token: torch.Tensor | None,
    segments: torch.Tensor | None,
    num_queries: int,
    num_keys: int,
    device: torch.device,
) -> BigBirdLayout:
    """Cuts sequences into blocks and lists what each block sees.

    Args:
        pattern: Numbers of blocks.
        draws: (H, rows, random blocks), integers below 2^31, or None without random blocks.
        is_token: (B, K), False for padding, or None.
        segments: Numbers of packed sequences, (B, K), or None. They make tables of one row, in which the batch's rows
            follow each other.
        num_queries: Q, the last tokens of a text.
        num_keys: K.
    """
    if segments is not None:
        key_blocks, blocks = cut_packed(pattern, segments)
        num_queries = segments.numel()
    else:
        key_blocks, blocks = cut_rows(pattern, is_token, num_queries, num_keys, device)
    seen = seen_blocks(pattern, blocks.own, blocks.count, draws)
    # The last of the blocks that queries after a cache may touch can lie behind the text's end.
    block_indices = seen + blocks.first[:, None, :, None]
    block_indices = torch.where((seen < 0) | (block_indices >= key_blocks.shape[1]), -1, block_indices)
    calls = [(blocks.queries[:, None], block_indices)]
    if pattern.num_global and not pattern.is_causal:
        calls = split_global(pattern, blocks, block_indices, key_blocks.shape[1], segments is not None)
    tokens = torch.cat([queries.flatten(1) for queries, _ in calls], dim=1)
    places = torch.full((tokens.shape[0], num_queries + 1), -1, device=device)
    numbers = torch.arange(tokens.shape[1], device=device).expand_as(tokens)
    places = places.scatter(1, torch.where(tokens < 0, num_queries, tokens), numbers)
    return BigBirdLayout(key_blocks[:, None], calls, places[:, :num_queries])


def traceable(segments: torch.Tensor | None) -> torch.Tensor | None:
    """Returns `segments`, but None while tracing.

    Each of those begins a block, so that the number of blocks depends on values. Positions that are given may pack
    nothing, which tracing cannot tell: the program checks it whenever it runs, unless an exporter drops
    its checks, as that to ONNX does.
    """
    if segments is None or not is_tracing(segments):
        return segments
    torch.ops.aten._assert_async.msg((segments == 1).all(), NOT_TRACED)
    return None


def cut_rows(
    pattern: BigBirdPattern, padding: torch.Tensor | None, num_queries: int, num_keys: int, device: torch.device
) -> tuple[torch.Tensor, Blocks]:
    """Blocks of keys (R, S, C) and of queries where each row is one sequence, from its first to its last real token.

    Shapes follow from Q and K alone. After a cache, only the blocks that hold queries are made.
    """
    size, past = pattern.block_size, num_keys - num_queries
    start, end = torch.zeros(1, 1, dtype=torch.long, device=device), num_keys
    if padding is not None:
        marks = padding.int()
        start, end = marks.argmax(1, keepdim=True), num_keys - marks.flip(1).argmax(1, keepdim=True)

    def present(tokens: torch.Tensor, limit: torch.Tensor | int) -> torch.Tensor:
        """`tokens` (R, blocks, places) without those from `limit` on, and without padding."""
        real = tokens < limit
        if padding is not None:
            index = tokens.clamp(max=num_keys - 1).flatten(1)
            real = real & padding.gather(1, index).view(tokens.shape)
        return torch.where(real, tokens, -1)

    num_blocks, width = block_count(num_keys, size), block_width(num_keys, size)
    tokens = start + torch.arange(num_blocks * width, device=device)
    key_blocks = present(tokens.view(-1, num_blocks, width), num_keys)
    if past:  # so many blocks may Q tokens touch
        num_blocks, width = (num_queries + size - 2) // size + 1, min(size, num_queries)
    own = (past - start).clamp(min=0) // size + torch.arange(num_blocks, device=device)
    begin = (start + own * size)[..., None]
    tokens = begin.clamp(min=past) + torch.arange(width, device=device)
    tokens = present(tokens, (begin + size).clamp(max=num_keys))
    count = (end - start + size - 1) // size
    queries = torch.where(tokens < 0, -1, tokens - past)
    return key_blocks, Blocks(queries, own, count.expand_as(own), torch.zeros_like(own))


def cut_packed(pattern: BigBirdPattern, segments: torch.Tensor) -> tuple[torch.Tensor, Blocks]:
    """Blocks of keys (1, S, C) and of queries where rows hold several sequences, numbered in `segments` (B, K).

    All rows become one, in which the sequences follow each other.
    """
    size, device = pattern.block_size, segments.device
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = begins.flatten().nonzero()[:, 0]
    ends = torch.cat([starts[1:], starts.new_tensor([segments.numel()])])
    count = (ends - starts + size - 1) // size
    first = count.cumsum(0) - count
    sequence = torch.repeat_interleave(torch.arange(len(starts), device=device), count)
    first, count, starts, ends = (values[sequence] for values in (first, count, starts, ends))
    own = torch.arange(len(sequence), device=device) - first
    tokens = (starts + own * size)[:, None] + torch.arange(size, device=device)
    tokens = torch.where(tokens < ends[:, None], tokens, -1)[None]
    return tokens, Blocks(tokens, own[None], count[None], first[None])


def seen_blocks(
    pattern: BigBirdPattern, own: torch.Tensor, count: torch.Tensor, draws: torch.Tensor | None
) -> torch.Tensor:
    """The blocks (R, 1 or H, T, L) that blocks `own` (R, T) of sequences of `count` (R, T) blocks see, each once."""
    fixed = fixed_blocks(pattern, own, count)[:, None]
    if draws is None:
        return fixed
    chosen = random_blocks(pattern, own, count, draws)
    return torch.cat([fixed.expand(-1, chosen.shape[1], -1, -1), chosen], dim=-1)


def fixed_blocks(pattern: BigBirdPattern, own: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Global blocks and the window of blocks `own` (R, T) in sequences of `count` blocks: (R, T, g + w)."""
    own, count = own[..., None], count[..., None]
    limit = own + 1 if pattern.is_causal else count
    head, tail, window = (torch.arange(n, device=own.device) for n in (pattern.head, pattern.tail, pattern.num_window))
    head = head.expand(*own.shape[:2], -1)
    head = torch.where(head < limit, head, -1)
    tail = limit - pattern.tail + tail
    tail = torch.where(tail >= pattern.head, tail, -1)
    window = own - pattern.left + window
    window = torch.where((window >= pattern.head) & (window < limit - pattern.tail), window, -1)
    return torch.cat([head, window, tail], dim=-1)


def random_blocks(
    pattern: BigBirdPattern, own: torch.Tensor, count: torch.Tensor, draws: torch.Tensor
) -> torch.Tensor:
    """Random blocks of each head that are neither global nor in the window, none twice: (R, H, T, r).

    The k-th is number `draw * (m - k) >> 31` of the m - k candidates that are left. In a decoder
    candidates are earlier blocks: what a block sees depends on its index alone, not on what follows.

    Args:
        own: (R, T), the index of each block in its sequence.
        count: (R, T), blocks of the sequence.
        draws: (H, rows, r). Texts of more blocks begin again with the first row.
    """
    limit = own + 1 if pattern.is_causal else count
    end, low = limit - pattern.tail, own - pattern.left
    high = (low + pattern.num_window).clamp(min=pattern.head)  # where candidates go on after the window
    before = (torch.minimum(low, end) - pattern.head).clamp(min=0)
    candidates = before + (end - high).clamp(min=0)
    rows = draws[:, own % draws.shape[1]].transpose(0, 1).long()
    before, high, candidates = before[:, None], high[:, None], candidates[:, None]
    chosen, blocks = [], []
    for number in range(draws.shape[2]):
        left = candidates - number
        index = (rows[..., number] * left.clamp(min=1)) >> 31
        for other in chosen:  # in growing order: each chosen candidate before it shifts it by one
            index = index + (index >= other)
        chosen = list(torch.stack([*chosen, index]).sort(dim=0).values)
        block = torch.where(index < before, pattern.head + index, high + index - before)
        blocks.append(torch.where(left > 0, block, -1))
    return torch.stack(blocks, dim=-1)


def split_global(
    pattern: BigBirdPattern, blocks: Blocks, block_indices: torch.Tensor, num_key_blocks: int, packed: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Takes an encoder's global blocks out of the first call, and lets them see their whole sequence in further ones.

    Each call is query blocks (R, 1, T, M) and the indices (R, 1 or H, T, L) of the key blocks that they see. Packed
    sequences take a call for each power of two of their lengths, so that short ones do not pay for long ones.
    """
    is_global = (blocks.own < pattern.head) | (blocks.own >= blocks.count - pattern.tail)
    if packed:
        picks = is_global[0].nonzero()[:, 0]
        powers = torch.frexp((blocks.count[0, picks] - 1).double()).exponent
        further = [(picks[powers == power][None], 2**power) for power in powers.unique().tolist()]
    else:
        steps, count = torch.arange(pattern.num_global, device=block_indices.device), blocks.count[:, :1]
        ends = steps + count - pattern.num_global
        picks = torch.where(steps < pattern.head, steps, torch.where(ends < pattern.head, -1, ends))
        further = [(torch.where(picks < count, picks, -1), num_key_blocks)]
    calls = [(blocks.queries.masked_fill(is_global[..., None], -1)[:, None], block_indices)]
    return calls + [whole_sequences(blocks, picks, width) for picks, width in further]


def whole_sequences(blocks: Blocks, picks: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries (R, 1, P, M) of the blocks `picks` (R, P), and the indices of all blocks of their sequences."""
    index = picks.clamp(min=0)
    count, first = (values.gather(1, index)[..., None] for values in (blocks.count, blocks.first))
    steps = torch.arange(width, device=picks.device)
    block_indices = torch.where(steps < count, first + steps, -1)
    queries = blocks.queries.gather(1, index[..., None].expand(-1, -1, blocks.queries.shape[2]))
    return queries.masked_fill(picks[..., None] < 0, -1)[:, None], block_indices[:, None]
