"""The objective of mask-predict: a decoder restores tokens of the target that are masked, any number of them."""

from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from ...modeling.checks.ids import IGNORE_INDEX


class MaskedTargetCollator:
    """Makes batches for an encoder-decoder with `decoder_is_causal=False`.

    Of the n tokens of a target before its end token a number from 1 to n, each as likely, is masked, at random places;
    the labels are these tokens. What is drawn changes each time (PyTorch's random state).

    Source: Ghazvininejad et al. 2019, Mask-predict, arXiv 1904.09324, section 2.2.

    Args:
        tokenizer: Of what is read.
        target_tokenizer: Of what is written, with a mask token, an end token and a padding token. Default: the same.

    Raises:
        ValueError: It lacks one of these; in a batch, a target does not end with the end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase | None = None):
        target = target_tokenizer or tokenizer
        needed = {name: getattr(target, name) for name in ("mask_token_id", "eos_token_id", "pad_token_id")}
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            raise ValueError(f"The tokenizer has no {missing}, which masked targets need.")
        self.mask_id, self.end, self.padding = (int(value) for value in needed.values())  # pyright: ignore
        self.pad = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORE_INDEX)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of `input_ids`, `decoder_input_ids` with masks, their attention masks, and `labels`."""
        for feature in features:
            if not len(feature["labels"]) or feature["labels"][-1] != self.end:
                raise ValueError(f"labels end with {list(feature['labels'])[-1:]}, not with eos_token_id={self.end}.")
        batch: Any = dict(self.pad(features))
        targets = batch["labels"]
        real = targets != IGNORE_INDEX
        masked = draw_masks(real.sum(dim=-1) - 1, targets.shape[1])
        batch["decoder_input_ids"] = targets.masked_fill(~real, self.padding).masked_fill(masked, self.mask_id)
        batch["decoder_attention_mask"] = real.long()
        batch["labels"] = targets.masked_fill(~masked, IGNORE_INDEX)
        return batch


def draw_masks(lengths: Tensor, width: int) -> Tensor:
    """Marks (B, width) from 1 to all of the first `lengths` (B,) places, at random; none where there are none."""
    counts = 1 + (torch.rand(lengths.shape) * lengths).long()
    order = torch.rand(len(lengths), width).masked_fill(torch.arange(width) >= lengths[:, None], torch.inf)
    return order.argsort(dim=-1).argsort(dim=-1) < torch.minimum(counts, lengths)[:, None]
