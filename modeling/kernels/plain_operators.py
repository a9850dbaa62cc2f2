"""Trine's operators written out in PyTorch's own, for formats that know no others: for inference, and all at once."""

import torch

from .listed_blocks import ListedProblem, attend, take
from .simplicial_eager import simplicial_eager
from .simplicial_forms import Reach


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
    return attend(take(query, slab.query_rows), take(key, slab.key_rows), take(value, slab.key_rows), slab, scale)


def plain_simplicial(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    second_key: torch.Tensor,
    second_value: torch.Tensor,
    offset_bias: torch.Tensor | None,
    segments: torch.Tensor | None,
    reaches: list[int],
    form: str,
    scale: float,
) -> torch.Tensor:
    """What `trine::simplicial_chunked` computes, in the memory of `simplicial_eager`."""
    states = (query, key, value, second_key, second_value)
    windows = {"first": Reach(*reaches[:2]), "second": Reach(*reaches[2:])}
    return simplicial_eager(*states, offset_bias, segments, **windows, form=form, scale=scale)[0]
