"""Every kind of attention by its name, with those of one softmax over single keys, and cross-attention."""

from functools import partial

import torch
from support.reference.blocks import bigbird_attention, lsh_attention
from support.reference.linear_attention import linear_attention, performer_attention
from support.reference.projections import heads_of, scale_of
from support.reference.simplicial import simplicial_attention
from support.reference.visibility import sees_chunked, sees_full, sees_sliding
from support.reference.weights import Weights, linear, softmax


def pairwise_attention(sees, config, weights: Weights, x: torch.Tensor, positions) -> torch.Tensor:
    """Equation 1 of Vaswani et al. 2017, a query at a time; query head h reads key-value head `h * G / H`."""
    queries, keys, values = (heads_of(config, x, weights, name) for name in "qkv")
    keys = [torch.stack([positions.rotate(row, p) for p, row in enumerate(head)]) for head in keys]
    outputs = []
    for h, query_head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        rows = []
        for i, query in enumerate(query_head):
            seen = [j for j in range(len(x)) if sees(config, i, j)]
            query = positions.rotate(query, i)
            scores = keys[g][seen] @ query * scale_of(config) + positions.biases(h, i, seen)
            rows.append(softmax(scores) @ values[g][seen])
        outputs.append(torch.stack(rows))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])


ATTENTIONS = {
    "full": partial(pairwise_attention, sees_full),
    "sliding": partial(pairwise_attention, sees_sliding),
    "chunked": partial(pairwise_attention, sees_chunked),
    "simplicial": simplicial_attention,
    "bigbird": bigbird_attention,
    "linear": linear_attention,
    "performer": performer_attention,
    "lsh": lsh_attention,
}


def cross_attention(config, weights: Weights, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3: each row of `x` sees every row of `source` (M, hidden)."""
    queries = heads_of(config, x, weights, "q")
    keys, values = (heads_of(config, source, weights, name) for name in "kv")
    outputs = []
    for h, head in enumerate(queries):
        g = h * config.num_key_value_heads // config.num_attention_heads
        rows = [softmax(keys[g] @ query * scale_of(config)) @ values[g] for query in head]
        outputs.append(torch.stack(rows))
    return linear(torch.cat(outputs, dim=1), weights["o_proj"])
