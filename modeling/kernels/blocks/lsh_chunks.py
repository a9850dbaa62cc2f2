"""Tokens sorted by bucket and cut into chunks: the tables of LSH attention for `block_sparse_attention`."""

# Shapes: B batch, H heads, R hashes, N tokens, K keys, Q queries, C tokens in a chunk, T blocks of C places.

from typing import NamedTuple

import torch

from ..exporting.lengths import block_count


class SortedChunks(NamedTuple):
    """Tokens of each hash in the order of their buckets, cut into blocks of C places."""

    blocks: torch.Tensor  # (B, H, R * T, C): the token at each place, or -1
    labels: torch.Tensor  # (B, H, R * T, C): the chunk at each place; those of other buckets are out of reach
    block_indices: torch.Tensor  # (1, 1, R * T, L): the blocks where the chunks in reach may be, or -1
    places: torch.Tensor  # (B, H, R, N): the place of each token


def sort_into_chunks(
    buckets: torch.Tensor,
    is_token: torch.Tensor | None,
    segments: torch.Tensor | None,
    chunk_length: int,
    adjacent: int,
    is_causal: bool,
) -> SortedChunks:
    """Sorts tokens by sequence, bucket and position, and numbers the chunks of each bucket.

    A bucket is cut into chunks of `chunk_length` tokens from its own first token. What a token of a decoder finds in
    its chunk thus depends on earlier tokens alone; cut across buckets, as in the paper, it would depend on later ones.

    Args:
        buckets: (B, H, N, R), from 0.
        is_token: (B, N), False for padding, or None.
        segments: Numbers of packed sequences, (B, N), or None; one of the two at most.
        adjacent: How many chunks to each side (in a decoder, before) a token reaches beside its own.
    """
    batch, heads, length, hashes = buckets.shape
    device = buckets.device
    keys = buckets.transpose(2, 3).long()
    numbers = segments if is_token is None else ~is_token  # padding comes last
    if numbers is not None:
        numbers = numbers.long()
        keys = keys + (numbers * (buckets.max() + 1))[:, None, None]
    index = torch.arange(length, device=device)
    order = (keys * length + index).argsort(dim=-1)
    groups = keys.gather(-1, order)
    begins = groups != torch.nn.functional.pad(groups, (1, 0), value=-1)[..., :-1]
    ranks = index - torch.where(begins, index, 0).cummax(dim=-1)[0]
    steps = torch.where(begins, adjacent + 1, (ranks % chunk_length == 0).long())
    labels = steps.cumsum(dim=-1)
    places = torch.empty_like(order).scatter_(-1, order, index.expand_as(order))
    tokens = order
    if is_token is not None:
        tokens = torch.where(is_token[:, None, None].expand_as(order).gather(-1, order), order, -1)
    count = block_count(length, chunk_length)
    padding = (0, count * chunk_length - length)
    shape = (batch, heads, hashes * count, chunk_length)
    blocks = torch.nn.functional.pad(tokens, padding, value=-1).reshape(shape)
    labels = torch.nn.functional.pad(labels, padding).reshape(shape)
    return SortedChunks(blocks, labels, neighbours(count, hashes, adjacent, is_causal, device), places)


def neighbours(num_blocks: int, hashes: int, adjacent: int, is_causal: bool, device: torch.device) -> torch.Tensor:
    """The blocks that a run of `adjacent` chunks can touch, since chunks begin anywhere: (1, 1, R * T, L)."""
    steps = torch.arange(-adjacent - 1, 1 if is_causal else adjacent + 2, device=device)
    block_indices = torch.arange(num_blocks, device=device)[:, None] + steps
    outside = (block_indices < 0) | (block_indices >= num_blocks)
    starts = torch.arange(hashes, device=device)[:, None, None] * num_blocks
    return torch.where(outside, -1, block_indices + starts).flatten(0, 1)[None, None]


def recent_of_bucket(
    buckets: torch.Tensor, num_queries: int, is_token: torch.Tensor | None, chunk_length: int, adjacent: int
) -> torch.Tensor:
    """The keys that the last tokens of a decoder see, as in `sort_into_chunks`, found without sorting the others.

    Args:
        buckets: (B, H, K, R).
        num_queries: Q; the queries are the last Q of the K tokens.
        is_token: (B, K), False for padding, or None.

    Returns:
        (B, H, Q * R, (adjacent + 1) * C): keys of the same bucket, the latest first, or -1.
    """
    length = buckets.shape[2]
    buckets = buckets.transpose(2, 3).contiguous()
    index = torch.arange(length, device=buckets.device, dtype=torch.int32)
    queries = index[length - num_queries :, None, None]
    same = buckets[:, :, None] == buckets[..., length - num_queries :].transpose(2, 3)[..., None]  # (B, H, Q, R, K)
    same = same & (index <= queries)
    if is_token is not None:
        same = same & is_token[:, None, None, None]
    ranks = same.sum(dim=-1, keepdim=True, dtype=torch.int32) - 1
    width = min((adjacent + 1) * chunk_length, length)
    latest = torch.where(same, index, -1).topk(width, dim=-1).values
    reach = ranks % chunk_length + adjacent * chunk_length
    return torch.where(index[:width] <= reach, latest, -1).flatten(2, 3).long()
