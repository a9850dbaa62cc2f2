"""Blocks of tokens of one length: the data of pretraining."""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class PackedBlocks(Dataset):
    """Equal blocks cut from one stream of tokens; the last `len(tokens) % block_length` tokens are left out.

    An item holds `input_ids` and `labels`, both the block itself (models shift labels). With `separator_id` it also
    holds `position_ids` that start again after each separator: models then keep the documents of a block apart.

    Args:
        tokens: one-dimensional tensor of token ids, in memory or memory-mapped (`torch.from_file`).
        block_length: tokens per block, at least 2 because the first one is never predicted.
        separator_id: the token that ends a document; None lets a block be read as one text.

    Raises:
        ValueError: a stream of another shape, a block length below 2, or fewer tokens than one block.
    """

    def __init__(self, tokens: Tensor, block_length: int, separator_id: int | None = None):
        if tokens.dim() != 1:
            raise ValueError(f"tokens has shape {tuple(tokens.shape)}; one dimension is needed.")
        if block_length < 2:
            raise ValueError(f"block_length={block_length} must be at least 2.")
        if len(tokens) < block_length:
            raise ValueError(
                f"The text has {len(tokens)} tokens, fewer than one block of block_length={block_length}."
            )
        self.blocks = tokens[: len(tokens) // block_length * block_length].view(-1, block_length)
        self.separator_id = separator_id

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        block = self.blocks[index].long()
        item = {"input_ids": block, "labels": block.clone()}
        if self.separator_id is not None:
            item["position_ids"] = _positions_in_documents(block, self.separator_id)
        return item


def _positions_in_documents(block: Tensor, separator_id: int) -> Tensor:
    positions = torch.arange(len(block))
    starts = torch.zeros_like(positions)
    starts[1:] = torch.where(block[:-1] == separator_id, positions[1:], 0)
    return positions - starts.cummax(0).values
