"""Block-sparse softmax attention: each block of queries attends to the key blocks that a table lists for it."""

# Shapes: B batch, H query heads, G key-value heads, Q queries, K keys, D head size; T blocks of M queries, S blocks of
# C keys, L key blocks that a block of queries sees, t blocks of queries in a tile. Sizes B and H of a table may be 1:
# it then holds for all rows, or heads.

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..exporting.patches import replace_for_onnx
from ..operators import register_operator


# Scores that exist at a time, by type of device.
BLOCK_SCORES = {"cpu": 2**18}
DEFAULT_BLOCK_SCORES = 2**26
FAR = 2**29  # the place of a key that there is not; of a query, twice that
HIDDEN = -1e30  # the score of a key that a query does not see
SELF_SCORE = -1e5  # of a token's own key where it sees itself only for want of others


class BlockSparseInputs(NamedTuple):
    """The inputs of block-sparse attention, in the order of the operator's arguments.

    Attributes:
        query: (B, H, Q, D). The queries are the last Q of the K tokens.
        key: (B, G, K, D), as is `value`.
        query_blocks: Indices of the queries in each block, (B, H, T, M), or -1 for none.
        key_blocks: Indices of the keys in each block, (B, H, S, C), or -1 for none.
        block_indices: Indices of the key blocks that each block of queries sees, (B, H, T, L), or -1 for none.
        query_labels: (B, H, T, M), integers, or None.
        key_labels: (B, H, S, C), likewise.
        is_causal: Whether a query sees no later key.
        adjacent: Largest difference between the labels of a query and of a key that it sees.
        masks_self: Whether a token's own key counts only where it sees no other.
        scale: Factor on the scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    query_blocks: Tensor
    key_blocks: Tensor
    block_indices: Tensor
    query_labels: Tensor | None = None
    key_labels: Tensor | None = None
    is_causal: bool = False
    adjacent: int = 0
    masks_self: bool = False
    scale: float = 1.0


def block_sparse_attention(inputs: BlockSparseInputs) -> tuple[Tensor, Tensor]:
    """Softmax attention of blocks of queries to some blocks of keys each, in memory independent of their number.

    A query sees the keys of its blocks that are no padding, and if causal no later ones; with labels, only those whose
    label is at most `adjacent` from its own. A key block must occur at most once among those of a query block, and
    every query must see a key. The backward pass computes the weights again.

    Cost: 2 * D * scores multiply-adds forward, 7 * D * scores for both passes, with T * M * L * C scores per head.

    Returns:
        Outputs (B, H, T, M, D), and the logarithms of the softmax's denominators (B, H, T, M), both without meaning at
        places without a query. The latter are zeros without labels, where nobody merges the results of several calls.

    Source: Child et al. 2019, Sparse Transformers, arXiv 1904.10509; tiles that are computed again in the backward
    pass: Dao et al. 2022, FlashAttention, arXiv 2205.14135, section 3.
    """
    query, key, value, *others = inputs
    return block_sparse_operator(query.contiguous(), key.contiguous(), value.contiguous(), *others)


class Tile(NamedTuple):
    """Blocks of queries that are computed at once: their rows in flattened queries and keys, and masks.

    On a CPU, arithmetic with masks is ten times as fast as comparisons and `masked_fill_`. A place without a query
    sees all keys, so that its weights have a sum.
    """

    blocks: slice
    query_rows: Tensor  # (B, H, t, M)
    key_rows: Tensor  # (B, H, t, L * C)
    hidden: Tensor  # (B or 1, H or 1, t, M, L * C), added to scores: 0 where a query sees a key, else `HIDDEN` or less
    others: Tensor | None  # likewise, where `masks_self`, a factor before that: 0 for the token's own key, else 1


class BlockSparseProblem:
    """The tables of one call, cut into tiles whose scores fit a memory budget."""

    def __init__(self, *flat):
        self.inputs = inputs = BlockSparseInputs(*flat)
        self.batch, self.heads, self.num_queries, self.head_dim = inputs.query.shape
        self.groups, self.num_keys = inputs.key.shape[1:3]
        rows = torch.arange(self.batch, device=inputs.query.device)[:, None, None, None]
        heads = torch.arange(self.heads, device=inputs.query.device)[None, :, None, None]
        self.query_base = (rows * self.heads + heads) * self.num_queries
        self.key_base = (rows * self.groups + heads // (self.heads // self.groups)) * self.num_keys

    def tiles(self) -> Iterator[Tile]:
        """Cuts the blocks of queries into tiles whose scores fit `BLOCK_SCORES`."""
        num_blocks, block = self.inputs.query_blocks.shape[2:]
        scores = self.batch * self.heads * block * self.inputs.block_indices.shape[3] * self.inputs.key_blocks.shape[3]
        budget = BLOCK_SCORES.get(self.inputs.block_indices.device.type, DEFAULT_BLOCK_SCORES)
        step = max(1, budget // scores)
        for start in range(0, num_blocks, step):
            yield self.tile(slice(start, min(start + step, num_blocks)))

    def gather(self, table: Tensor, block_indices: Tensor, missing: int) -> Tensor:
        """Reads the blocks (B, H, t, L) of `table` (B, H, S, C) as (B, H, t, L * C); no block is `missing`."""
        batch, heads = (max(*sizes) for sizes in zip(table.shape[:2], block_indices.shape[:2], strict=True))
        table, block_indices = table.expand(batch, heads, -1, -1), block_indices.expand(batch, heads, -1, -1)
        width = table.shape[3]
        index = block_indices.clamp(min=0).flatten(2)[..., None].expand(-1, -1, -1, width)
        found = table.gather(2, index).view(*block_indices.shape, width)
        return found.masked_fill(block_indices[..., None] < 0, missing).flatten(3)

    def tile(self, blocks: slice) -> Tile:
        """The rows and the masks of some blocks of queries."""
        inputs = self.inputs
        queries, block_indices = inputs.query_blocks[:, :, blocks], inputs.block_indices[:, :, blocks]
        keys = self.gather(inputs.key_blocks, block_indices, -1)
        query_rows = self.query_base + queries.clamp(min=0)
        key_rows = self.key_base + keys.clamp(min=0)
        places = torch.where(queries < 0, 2 * FAR, queries + (self.num_keys - self.num_queries)).int()[..., None]
        columns = torch.where(keys < 0, FAR, keys).int()[..., None, :]
        limits = places if inputs.is_causal else torch.where(places < FAR, self.num_keys, 2 * FAR).int()
        if inputs.query_labels is None or inputs.key_labels is None:
            excess = (columns - limits).clamp_(min=0)
        else:
            labels = self.gather(inputs.key_labels, block_indices, 0)[..., None, :]
            labels = torch.where(columns < FAR, 2 * labels, FAR).int()
            ahead = 0 if inputs.is_causal else inputs.adjacent
            middles = (2 * inputs.query_labels[:, :, blocks, :, None] + (ahead - inputs.adjacent)).int()
            reach = torch.where(places < FAR, ahead + inputs.adjacent, 2 * FAR).int()
            excess = (labels - middles).abs_().sub_(reach).clamp_(min=0)
            if inputs.is_causal:
                excess += (columns - limits).clamp_(min=0)
        hidden, others = excess.to(torch.promote_types(inputs.query.dtype, torch.float32)).mul_(HIDDEN), None
        if inputs.masks_self:
            others = (columns - places).abs_().clamp_(max=1).to(hidden.dtype)
            hidden.add_(others - 1, alpha=-SELF_SCORE)
        return Tile(blocks, query_rows, key_rows, hidden, others)

    def states(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, t, M, D), keys and values (B, H, t, L * C, D) of a tile."""
        query, key, value = self.inputs[:3]
        return take(query, tile.query_rows), take(key, tile.key_rows), take(value, tile.key_rows)


def take(states: Tensor, rows: Tensor) -> Tensor:
    """Rows (..., D) of states (B, heads, N, D)."""
    return states.view(-1, states.shape[-1]).index_select(0, rows.flatten()).view(*rows.shape, states.shape[-1])


def score(query: Tensor, key: Tensor, tile: Tile, scale: float) -> Tensor:
    """Scores (B, H, t, M, L * C) of rows that are gathered, in float32 at least."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    scores = scores.to(torch.promote_types(query.dtype, torch.float32)).mul_(scale)
    if tile.others is not None:
        scores.mul_(tile.others)
    return scores.add_(tile.hidden)


def attend_tile(query: Tensor, key: Tensor, value: Tensor, tile: Tile, scale: float) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, t, M, D) and logarithms of denominators (B, H, t, M)."""
    scores = score(query, key, tile, scale)
    weights = scores.softmax(dim=-1)
    return torch.matmul(weights.to(value.dtype), value), scores.amax(dim=-1) - weights.amax(dim=-1).log()


def attend_tile_fused(query: Tensor, key: Tensor, value: Tensor, tile: Tile, scale: float) -> tuple[Tensor, Tensor]:
    """The outputs (B, H, t, M, D) by PyTorch's kernel, which returns no denominators: zeros (B, H, t, M)."""
    hidden = tile.hidden.to(query.dtype).expand(*query.shape[:2], -1, -1, -1).flatten(0, 1)
    states = (states.flatten(0, 1) for states in (query, key, value))
    output = torch.nn.functional.scaled_dot_product_attention(*states, attn_mask=hidden, scale=scale)
    return output.view_as(query), query.new_zeros(query.shape[:-1])


def attend_tile_backward(
    output_grad: Tensor, normalizer_grad: Tensor, query: Tensor, key: Tensor, value: Tensor, tile: Tile, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the gathered queries (B, H, t, M, D), keys and values (B, H, t, L * C, D)."""
    weights = score(query, key, tile, scale).softmax(dim=-1)
    value_grad = torch.matmul(weights.transpose(-1, -2).to(value.dtype), output_grad)
    weight_grad = torch.matmul(output_grad, value.transpose(-1, -2)).to(weights.dtype)
    score_grad = torch.ops.aten._softmax_backward_data(weight_grad, weights, -1, weights.dtype)
    score_grad.addcmul_(weights, normalizer_grad[..., None])
    if tile.others is not None:
        score_grad.mul_(tile.others)
    score_grad, query = score_grad.to(query.dtype), query * scale
    return torch.matmul(score_grad, key) * scale, torch.matmul(score_grad.transpose(-1, -2), query), value_grad


def block_sparse_forward(*flat) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, T, M, D) and logarithms of denominators (B, H, T, M), tile by tile."""
    problem = BlockSparseProblem(*flat)
    inputs = problem.inputs
    compute = attend_tile_fused if inputs.query_labels is None else attend_tile
    output, normalizer = empty_results(*flat)
    for tile in problem.tiles():
        results = compute(*problem.states(tile), tile, inputs.scale)
        output[:, :, tile.blocks], normalizer[:, :, tile.blocks] = results
    return output, normalizer


def block_sparse_backward(output_grad: Tensor, normalizer_grad: Tensor, *flat) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query (B, H, Q, D), key and value (B, G, K, D), tile by tile; weights are computed again."""
    problem = BlockSparseProblem(*flat)
    query, key, value = problem.inputs[:3]
    dtype = torch.promote_types(query.dtype, torch.float32)
    totals = [torch.zeros_like(source, dtype=dtype).view(-1, problem.head_dim) for source in (query, key, value)]
    for tile in problem.tiles():
        rows = (tile.query_rows, tile.key_rows, tile.key_rows)
        grads = output_grad[:, :, tile.blocks], normalizer_grad[:, :, tile.blocks]
        found = attend_tile_backward(*grads, *problem.states(tile), tile, problem.inputs.scale)
        for total, index, grad in zip(totals, rows, found, strict=True):
            total.index_add_(0, index.flatten(), grad.reshape(-1, problem.head_dim).to(dtype))
    query_total, key_total, value_total = totals
    return (
        query_total.view_as(query).to(query.dtype),
        key_total.view_as(key).to(key.dtype),
        value_total.view_as(value).to(value.dtype),
    )


def empty_results(query: Tensor, key: Tensor, value: Tensor, query_blocks: Tensor, *others) -> tuple[Tensor, Tensor]:
    """Empty outputs (B, H, T, M, D) and normalizers (B, H, T, M)."""
    shape = (*query.shape[:2], *query_blocks.shape[2:])
    dtype = torch.promote_types(query.dtype, torch.float32)
    return query.new_empty(*shape, query.shape[-1]), query.new_empty(shape, dtype=dtype)


def empty_gradients(output_grad: Tensor, normalizer_grad: Tensor, *flat) -> tuple[Tensor, ...]:
    """Empty gradients of query (B, H, Q, D), key and value (B, G, K, D)."""
    return tuple(torch.empty_like(source) for source in flat[:3])


def differentiate_block_sparse(inputs, outputs, output_grads) -> tuple[Tensor, ...]:
    """The backward operator for autograd."""
    return block_sparse_backward_operator(*output_grads, *inputs)


# Names of operators and of their arguments stand in exported programs, and stay.
BLOCK_SPARSE_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor query_blocks, Tensor key_blocks, Tensor lists, "
    "Tensor? query_labels, Tensor? key_labels, bool is_causal, SymInt adjacent, bool shuns_itself, float scale"
)
block_sparse_backward_operator = register_operator(
    "listed_blocks_backward",
    f"(Tensor output_grad, Tensor normalizer_grad, {BLOCK_SPARSE_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
    block_sparse_backward,
    empty_gradients,
)
block_sparse_operator = register_operator(
    "listed_blocks",
    f"({BLOCK_SPARSE_ARGUMENTS}) -> (Tensor, Tensor)",
    block_sparse_forward,
    empty_results,
    differentiate_block_sparse,
)


def plain_block_sparse(*flat) -> tuple[Tensor, Tensor]:
    """Computes `trine::listed_blocks` with all scores (B, H, T, M, L * C) in memory."""
    problem = BlockSparseProblem(*flat)
    tile = problem.tile(slice(None))
    return attend_tile(*problem.states(tile), tile, problem.inputs.scale)


replace_for_onnx(block_sparse_attention, "block_sparse_operator", plain_block_sparse)
