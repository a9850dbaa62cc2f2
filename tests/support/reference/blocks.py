"""Attention to blocks and buckets: BigBird and LSH."""

import math

import torch
from support.reference.projections import heads_of
from support.reference.visibility import sees_full
from support.reference.weights import Weights, linear, softmax


def bigbird_blocks(config, own: int, count: int, draws: list[int]) -> list[int]:
    """The blocks that block `own` of `count` sees: Zaheer et al. 2020, arXiv 2007.14062, section 2, as sets.

    Each number below 2^31 picks one of the blocks that are seen neither as global nor in the window, once.
    """
    num_global, width = config.bigbird_num_global_blocks, config.bigbird_num_window_blocks
    if config.is_causal:
        there, global_blocks, window = range(own + 1), range(num_global), range(own - width + 1, own + 1)
    else:
        ends = num_global // 2
        there, window = range(count), range(own - width // 2, own + width // 2 + 1)
        global_blocks = [*range(num_global - ends), *range(count - ends, count)]
        if own in global_blocks:
            return list(there)
    seen = [block for block in there if block in global_blocks or block in window]
    others = [block for block in there if block not in seen]
    for draw in draws:
        if others:
            seen.append(others.pop(draw * len(others) >> 31))
    return seen


def bigbird_attention(config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Zaheer et al. 2020, arXiv 2007.14062, a query at a time; a decoder's pattern is cut to the past."""
    queries, keys, values = (heads_of(config, x, weights, name) for name in "qkv")
    keys = [torch.stack([positions.rotate(row, p) for p, row in enumerate(head)]) for head in keys]
    size, outputs = config.bigbird_block_size, []
    count = math.ceil(len(x) / size)
    for h, query_head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        rows = []
        for i, query in enumerate(query_head):
            draws = []
            if config.bigbird_num_random_blocks:
                table = weights["random_draws"][h]
                draws = [int(draw) for draw in table[i // size % len(table)]]
            blocks = bigbird_blocks(config, i // size, count, draws)
            seen = [j for j in range(len(x)) if j // size in blocks and sees_full(config, i, j)]
            scores = keys[g][seen] @ positions.rotate(query, i) / math.sqrt(config.head_dim)
            rows.append(softmax(scores) @ values[g][seen])
        outputs.append(torch.stack(rows))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])


def lsh_attention(config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Kitaev et al. 2020, arXiv 2001.04451, section 2, with chunks that are counted within a bucket.

    Keys are queries of unit length (times the square root of their size, which the scale takes away again), and a
    token's own key has the score -1e5. Hashes are merged as in equation 5, by the logarithms of their denominators.
    """
    queries, values = (heads_of(config, x, weights, name) for name in "qv")
    directions, size, reach = weights["directions"], config.lsh_chunk_length, config.lsh_num_adjacent_chunks
    outputs = []
    for h, head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        turned = torch.stack([positions.rotate(row, p) for p, row in enumerate(head)])
        keys = torch.stack([row / torch.sqrt((row * row).mean() + 1e-6) for row in turned])
        results, sums = [], []  # of each hash, for each token
        for r in range(directions.shape[1]):
            nearness = [torch.cat([row @ directions[:, r], -(row @ directions[:, r])]) for row in head]
            buckets = [int(row.argmax()) for row in nearness]
            chunks = [buckets[:i].count(buckets[i]) // size for i in range(len(x))]
            rows, totals = [], []
            for i, query in enumerate(turned):
                seen = [
                    j
                    for j in range(len(x))
                    if buckets[j] == buckets[i] and abs(chunks[i] - chunks[j]) <= reach and sees_full(config, i, j)
                ]
                scores = [keys[j] @ query / math.sqrt(config.head_dim) if j != i else x.new_tensor(-1e5) for j in seen]
                scores = torch.stack(scores)
                rows.append(softmax(scores) @ values[g][seen])
                totals.append(torch.logsumexp(scores, dim=0))
            results.append(torch.stack(rows))
            sums.append(torch.stack(totals))
        shares = torch.softmax(torch.stack(sums), dim=0)
        outputs.append((shares[..., None] * torch.stack(results)).sum(dim=0))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])
