"""Batches without padding: the real tokens of ragged sequences in one row."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainingArguments


class PaddingFreeCollator:
    """Wraps a collator, and packs the real tokens of its padded batches one after the other into a single row.

    Positions start again with each sequence, which is how a Trine encoder or decoder knows that sequences must not
    see each other; its outputs are those of the padded batch. The more the lengths differ, the more is saved.
    Source: Krell et al. 2021, Efficient sequence packing, arXiv 2107.02027; ModernBERT, arXiv 2412.13663, section 2.1.

    Args:
        collator: Makes padded tensors with an `attention_mask` (batch, length): transformers'
            `DataCollatorWithPadding`, `DataCollatorForLanguageModeling`, `DataCollatorForTokenClassification`...
    """

    def __init__(self, collator: Callable[[Sequence[Any]], Any]):
        self.collator = collator

    def __call__(self, features: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Collates `features` to tensors (1, tokens), with `position_ids` in place of `attention_mask`.

        What has one value per sequence, such as the label of a classifier, stays as it is.

        Raises:
            ValueError: If the wrapped collator makes no attention mask.
        """
        batch = dict(self.collator(features))
        if "attention_mask" not in batch:
            raise ValueError(
                f"{type(self.collator).__name__} makes {sorted(batch)}, but no 'attention_mask', which tells padding."
            )
        mask = batch.pop("attention_mask")
        real = mask.bool()
        packed = {
            name: value[real][None] if torch.is_tensor(value) and value.shape[:2] == mask.shape else value
            for name, value in batch.items()
        }
        return {**packed, "position_ids": (mask.cumsum(dim=1) - 1)[real][None]}


def takes_packed_rows(model: Any, training: TrainingArguments) -> bool:
    """Whether a model can be trained on packed rows: one of Trine, and no `DataParallel`, which would cut the row."""
    return model.config.model_type == "trine" and training.n_gpu <= 1
