"""Softmax attention in which each block of queries sees the blocks of keys on its list."""

# Shapes: B batch, H query heads, G key-value heads, Q queries, K keys, D head size; T blocks of M queries, S blocks of
# C keys, L blocks of keys on a list. Sizes B and H of a table may be 1: it then holds for all rows, or heads.

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..exporting.patches import replace_for_onnx
from ..operator_names import free_name


# Scores that exist at a time, by type of device.
BLOCK_SCORES = {"cpu": 2**18}
DEFAULT_BLOCK_SCORES = 2**26
SELF_SCORE = -1e5  # of a token's own key where it sees itself only for want of others


def listed_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_blocks: torch.Tensor,
    key_blocks: torch.Tensor,
    lists: torch.Tensor,
    query_labels: torch.Tensor | None = None,
    key_labels: torch.Tensor | None = None,
    *,
    is_causal: bool,
    adjacent: int = 0,
    shuns_itself: bool = False,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of blocks of queries to lists of blocks of keys, in memory that does not grow with the lists.

    A query sees the keys of the listed blocks that are no padding, and if causal no later ones; with labels, only
    those whose label is at most `adjacent` from its own. A block must stand at most once on a list, and every query
    must see a key. The backward pass computes the weights again.

    Cost: 2 * D * scores multiply-adds forward, 7 * D * scores for both passes, with T * M * L * C scores a head.

    Args:
        query: (B, H, Q, D). The queries are the last Q of the K tokens.
        key: (B, G, K, D), as is `value`.
        query_blocks: Which query each place of a block holds, (B, H, T, M), or -1 for none.
        key_blocks: Which key each place of a block holds, (B, H, S, C), or -1 for none.
        lists: Which blocks of keys each block of queries sees, (B, H, T, L), or -1 for none.
        query_labels: (B, H, T, M), integers, or None.
        key_labels: (B, H, S, C), likewise.
        shuns_itself: Whether a token's own key counts only where it sees no other.
        scale: Factor on the scores.

    Returns:
        Outputs (B, H, T, M, D), and the logarithms of the softmax's denominators (B, H, T, M), both without meaning at
        places without a query. The latter are zeros without labels, where nobody merges several lists.
    """
    return listed_operator(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        *(query_blocks, key_blocks, lists, query_labels, key_labels),
        *(is_causal, adjacent, shuns_itself, scale),
    )


class Slab(NamedTuple):
    """A run of blocks of queries: where their rows stand in flattened queries and keys, and what may see what."""

    blocks: slice
    query_rows: torch.Tensor  # (B, H, t, M)
    key_rows: torch.Tensor  # (B, H, t, L * C)
    visible: torch.Tensor  # (B or 1, H or 1, t, M, L * C)
    itself: torch.Tensor | None  # likewise, where a token shuns itself


class ListedProblem:
    """The tables of one call, cut into slabs whose scores fit the memory that is given to them."""

    def __init__(self, query, key, tables, is_causal: bool, adjacent: int, shuns_itself: bool):
        self.batch, self.heads, self.num_queries, self.head_dim = query.shape
        self.groups, self.num_keys = key.shape[1:3]
        self.query_blocks, self.key_blocks, self.lists, self.query_labels, self.key_labels = tables
        self.is_causal, self.adjacent, self.shuns_itself = is_causal, adjacent, shuns_itself
        self.num_blocks = self.query_blocks.shape[2]
        rows = torch.arange(self.batch, device=query.device)[:, None, None, None]
        heads = torch.arange(self.heads, device=query.device)[None, :, None, None]
        self.query_base = (rows * self.heads + heads) * self.num_queries
        self.key_base = (rows * self.groups + heads // (self.heads // self.groups)) * self.num_keys

    def slabs(self) -> Iterator[Slab]:
        scores = self.batch * self.heads * self.query_blocks.shape[3] * self.lists.shape[3] * self.key_blocks.shape[3]
        budget = BLOCK_SCORES.get(self.lists.device.type, DEFAULT_BLOCK_SCORES)
        step = max(1, budget // scores)
        for start in range(0, self.num_blocks, step):
            yield self.slab(slice(start, min(start + step, self.num_blocks)))

    def listed(self, table: torch.Tensor, lists: torch.Tensor, missing: int) -> torch.Tensor:
        """What `table` (B, H, S, C) holds for the blocks of `lists` (B, H, t, L): (B, H, t, L * C)."""
        batch, heads = (max(*sizes) for sizes in zip(table.shape[:2], lists.shape[:2], strict=True))
        table, lists = table.expand(batch, heads, -1, -1), lists.expand(batch, heads, -1, -1)
        width = table.shape[3]
        index = lists.clamp(min=0).flatten(2)[..., None].expand(-1, -1, -1, width)
        found = table.gather(2, index).view(*lists.shape, width)
        return found.masked_fill(lists[..., None] < 0, missing).flatten(3)

    def slab(self, blocks: slice) -> Slab:
        queries, lists = self.query_blocks[:, :, blocks], self.lists[:, :, blocks]
        keys = self.listed(self.key_blocks, lists, -1)
        places = (queries + (self.num_keys - self.num_queries))[..., None]
        visible = (keys >= 0)[..., None, :]
        if self.is_causal:
            visible = visible & (keys[..., None, :] <= places)
        if self.query_labels is not None and self.key_labels is not None:
            labels = self.listed(self.key_labels, lists, 0)[..., None, :]
            own = self.query_labels[:, :, blocks, :, None]
            ahead = 0 if self.is_causal else self.adjacent
            visible = visible & (labels >= own - self.adjacent) & (labels <= own + ahead)
        no_query = (queries < 0)[..., None]
        query_rows = self.query_base + queries.clamp(min=0)
        key_rows = self.key_base + keys.clamp(min=0)
        itself = keys[..., None, :] == places if self.shuns_itself else None
        return Slab(blocks, query_rows, key_rows, visible | no_query, itself)


def weigh(query, key, slab: Slab, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (B, H, t, M, L * C) and the largest score (B, H, t, M) of each query, from rows that are gathered."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    scores = scores.to(torch.promote_types(query.dtype, torch.float32)).mul_(scale)
    if slab.itself is not None:
        scores.masked_fill_(slab.itself, SELF_SCORE)
    scores.masked_fill_(~slab.visible, -torch.inf)
    return scores.softmax(dim=-1), scores.amax(dim=-1)


def attend_listed(query, key, value, slab: Slab, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (B, H, t, M, D) and logarithms of denominators (B, H, t, M)."""
    weights, largest = weigh(query, key, slab, scale)
    return torch.matmul(weights.to(value.dtype), value), largest - weights.amax(dim=-1).log()


def attend_backward(
    output_grad, normalizer_grad, query, key, value, slab: Slab, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the gathered rows of queries, keys and values."""
    weights, _ = weigh(query, key, slab, scale)
    value_grad = torch.matmul(weights.transpose(-1, -2).to(value.dtype), output_grad)
    weight_grad = torch.matmul(output_grad, value.transpose(-1, -2)).to(weights.dtype)
    shift = (weights * weight_grad).sum(dim=-1, keepdim=True) - normalizer_grad[..., None]
    score_grad = weight_grad.sub_(shift).mul_(weights).mul_(scale)
    if slab.itself is not None:
        score_grad.masked_fill_(slab.itself, 0.0)
    score_grad = score_grad.to(query.dtype)
    return torch.matmul(score_grad, key), torch.matmul(score_grad.transpose(-1, -2), query), value_grad


def attend_fused(query, key, value, slab: Slab, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What `attend_listed` computes, by the library's kernel, which returns no denominators."""
    visible = slab.visible.expand(*query.shape[:2], -1, -1, -1).flatten(0, 1)
    states = (states.flatten(0, 1) for states in (query, key, value))
    output = torch.nn.functional.scaled_dot_product_attention(*states, attn_mask=visible, scale=scale)
    return output.view_as(query), query.new_zeros(query.shape[:-1])


def take(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows (..., D) of states (B, heads, N, D)."""
    return states.view(-1, states.shape[-1]).index_select(0, rows.flatten()).view(*rows.shape, states.shape[-1])


@torch.library.custom_op(free_name("listed_blocks"), mutates_args=())
def listed_operator(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_blocks: torch.Tensor,
    key_blocks: torch.Tensor,
    lists: torch.Tensor,
    query_labels: torch.Tensor | None,
    key_labels: torch.Tensor | None,
    is_causal: bool,
    adjacent: int,
    shuns_itself: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    tables = (query_blocks, key_blocks, lists, query_labels, key_labels)
    problem = ListedProblem(query, key, tables, is_causal, adjacent, shuns_itself)
    compute = attend_fused if query_labels is None else attend_listed
    output, normalizer = empty_results(query, query_blocks)
    for slab in problem.slabs():
        states = take(query, slab.query_rows), take(key, slab.key_rows), take(value, slab.key_rows)
        output[:, :, slab.blocks], normalizer[:, :, slab.blocks] = compute(*states, slab, scale)
    return output, normalizer


@torch.library.custom_op(free_name("listed_blocks_backward"), mutates_args=())
def listed_backward_operator(
    output_grad: torch.Tensor,
    normalizer_grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_blocks: torch.Tensor,
    key_blocks: torch.Tensor,
    lists: torch.Tensor,
    query_labels: torch.Tensor | None,
    key_labels: torch.Tensor | None,
    is_causal: bool,
    adjacent: int,
    shuns_itself: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tables = (query_blocks, key_blocks, lists, query_labels, key_labels)
    problem = ListedProblem(query, key, tables, is_causal, adjacent, shuns_itself)
    dtype = torch.promote_types(query.dtype, torch.float32)
    sources = (query, key, value)
    totals = [torch.zeros_like(source, dtype=dtype).view(-1, problem.head_dim) for source in sources]
    for slab in problem.slabs():
        rows = (slab.query_rows, slab.key_rows, slab.key_rows)
        states = take(query, slab.query_rows), take(key, slab.key_rows), take(value, slab.key_rows)
        grads = output_grad[:, :, slab.blocks], normalizer_grad[:, :, slab.blocks]
        found = attend_backward(*grads, *states, slab, scale)
        for total, index, grad in zip(totals, rows, found, strict=True):
            total.index_add_(0, index.flatten(), grad.reshape(-1, problem.head_dim).to(dtype))
    query_grad, key_grad, value_grad = (
        total.view_as(source).to(source.dtype) for total, source in zip(totals, sources, strict=True)
    )
    return query_grad, key_grad, value_grad


def empty_results(query: torch.Tensor, query_blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (*query.shape[:2], *query_blocks.shape[2:])
    dtype = torch.promote_types(query.dtype, torch.float32)
    return query.new_empty(*shape, query.shape[-1]), query.new_empty(shape, dtype=dtype)


@listed_operator.register_fake
def _(query, key, value, query_blocks, *others):
    return empty_results(query, query_blocks)


@listed_backward_operator.register_fake
def _(output_grad, normalizer_grad, query, key, value, *others):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def save_listed(ctx, inputs, output) -> None:
    *tensors, ctx.is_causal, ctx.adjacent, ctx.shuns_itself, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def run_listed_backward(ctx, output_grad, normalizer_grad):
    options = (ctx.is_causal, ctx.adjacent, ctx.shuns_itself, ctx.scale)
    grads = listed_backward_operator(output_grad, normalizer_grad, *ctx.saved_tensors, *options)
    return *grads, *[None] * 9


listed_operator.register_autograd(run_listed_backward, setup_context=save_listed)


def plain_listed_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_blocks: torch.Tensor,
    key_blocks: torch.Tensor,
    lists: torch.Tensor,
    query_labels: torch.Tensor | None,
    key_labels: torch.Tensor | None,
    is_causal: bool,
    adjacent: int,
    shuns_itself: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `trine::listed_blocks` computes, with the scores of all blocks in memory."""
    tables = (query_blocks, key_blocks, lists, query_labels, key_labels)
    slab = ListedProblem(query, key, tables, is_causal, adjacent, shuns_itself).slab(slice(None))
    return attend_listed(
        take(query, slab.query_rows), take(key, slab.key_rows), take(value, slab.key_rows), slab, scale
    )


replace_for_onnx(listed_blocks, "listed_operator", plain_listed_blocks)
