"""Documents to blocks of tokens of one length: the data of pretraining."""

import random
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase


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


def tokenize_documents(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int = 512,
    description: str | None = None,
) -> Tensor:
    """The token ids of all documents in one stream of 32-bit integers, each document followed by the EOS token.

    Documents are plain text: a special token that is written out in one is split like any other text. With a
    `description` the work shows a progress bar.

    Raises:
        ValueError: the tokenizer has no EOS token, or there is no document.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has no eos_token, which must stand between documents.")
    parts = []
    for batch in _batches(_with_progress(documents, description), batch_size):
        encoded = tokenizer(
            batch, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )
        parts.extend(np.array([*ids, tokenizer.eos_token_id], dtype=np.int32) for ids in encoded["input_ids"])
    if not parts:
        raise ValueError("There is no document to tokenise.")
    return torch.from_numpy(np.concatenate(parts))


def _batches(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    documents = iter(documents)
    while batch := list(islice(documents, size)):
        yield batch


def _with_progress(documents: Iterable[str], description: str | None) -> Iterable[str]:
    from tqdm.auto import tqdm

    return tqdm(documents, desc=description, unit="document", disable=description is None)


def split_documents(documents: list[str], validation_fraction: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Training and validation documents; validation gets about `validation_fraction` of the characters.

    Whole documents are drawn at random. Where each one is longer than the share of validation (one long file), the
    end of the longest document is cut off at a line end instead.

    Raises:
        ValueError: a fraction outside (0, 1), or too little text to leave something on both sides.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction={validation_fraction} must lie between 0 and 1.")
    budget = validation_fraction * sum(map(len, documents))
    chosen: set[int] = set()
    size = 0
    for number in random.Random(seed).sample(range(len(documents)), len(documents)):
        if size + len(documents[number]) <= budget:
            chosen.add(number)
            size += len(documents[number])
        elif size > budget / 2:  # to fill up the rest would favour short documents
            break
    if chosen:
        train = [document for number, document in enumerate(documents) if number not in chosen]
        return train, [documents[number] for number in sorted(chosen)]
    text = max(documents, key=len, default="")
    cut = text.rfind("\n", 0, len(text) - int(budget)) + 1
    if not cut:
        raise ValueError(
            f"{len(documents)} documents of {sum(map(len, documents))} characters are too little text to split off "
            f"validation_fraction={validation_fraction}."
        )
    longest = documents.index(text)
    return [*documents[:longest], text[:cut], *documents[longest + 1 :]], [text[cut:]]
