"""The objective of prefixes: the first tokens of a text are read both ways, and those after them are told."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...modeling.losses import IGNORE_INDEX


class PrefixCollator:
    """Makes batches for a decoder with `prefix_lm` of blocks of one length.

    Each has a prefix of its own, of any number of tokens from 1 to all but one, each as likely; the tokens after it
    have labels. What is drawn changes each time (PyTorch's random state).
    Source: Raffel et al. 2019, arXiv 1910.10683, section 3.2.3.
    """

    def __call__(self, features: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """A batch of `input_ids` and `labels` (B, length), and `prefix_length` (B,)."""
        ids, labels = (torch.stack([feature[name] for feature in features]) for name in ("input_ids", "labels"))
        prefixes = torch.randint(1, ids.shape[1], (len(ids),))
        is_read = torch.arange(ids.shape[1]) < prefixes[:, None]
        return {"input_ids": ids, "labels": labels.masked_fill(is_read, IGNORE_INDEX), "prefix_length": prefixes}
