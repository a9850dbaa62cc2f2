"""Loss and logits of the heads that predict tokens, whatever trunk they are on."""

from typing import Any

import torch
from torch import nn

from ...configuration.choices import in_package
from ..checks.ids import check_labels
from ..losses import chunked_lm_loss, chunked_sum, lm_loss
from .deferred_logits import DeferredLogits
from .few_rows import multiply_few


FAST_PRODUCTS = in_package((multiply_few,))


class TokenHead:
    """A model whose `lm_head` predicts a token for each hidden state."""

    lm_head: nn.Linear
    training: bool
    config: Any

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps hidden states (..., hidden) to logits (..., vocabulary)."""
        for multiply in FAST_PRODUCTS:
            logits = multiply(self.lm_head, hidden_states)
            if logits is not None:
                return logits
        return self.lm_head(hidden_states)

    def check_labels(self, labels: torch.Tensor | None, *sources: torch.Tensor | None) -> None:
        """Raises a `ValueError` for labels that are no rows of tokens of the vocabulary, before the trunk is asked.

        Args:
            labels: (batch, length).
            sources: What an encoder reads or has read, (batch, ...), where another length is for the labels: the first
                that is given counts.
        """
        source = next((source for source in sources if source is not None), None)
        if labels is not None and (labels.ndim != 2 or source is not None and len(labels) != len(source)):
            batch = "batch" if source is None else len(source)
            raise ValueError(f"labels have shape {tuple(labels.shape)}, but must have ({batch}, length).")
        check_labels(labels, self.config.vocab_size, "labels", f"vocab_size={self.config.vocab_size}")

    def chunked_loss(
        self, hidden_states: torch.Tensor, targets: torch.Tensor, chunk_size: int, **kwargs
    ) -> torch.Tensor:
        """The loss that never holds the logits of all hidden states."""
        return chunked_lm_loss(hidden_states, self.lm_head, targets, chunk_size, **kwargs)

    def loss_and_logits(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None,
        targets: torch.Tensor | None,
        chunk_size: int | None,
        **kwargs,
    ) -> tuple[torch.Tensor | None, torch.Tensor | DeferredLogits]:
        """The loss if there are labels, and the logits, which training on chunks leaves until they are read.

        Args:
            hidden_states: (..., hidden).
            labels: What the caller of the model gave, for a `loss_function` that was set on it.
            targets: What each hidden state predicts, (...).
            chunk_size: Hidden states whose logits exist at a time, or None for ordinary logits.
            kwargs: What the losses read: `num_items_in_batch`, `label_smoothing`, `shift_labels`.
        """
        if labels is None or targets is None:
            return None, self.project(hidden_states)
        own_loss = vars(self).get("_loss_function")
        if self.training and chunk_size is not None and own_loss is None and chunked_sum(self.lm_head):
            loss = self.chunked_loss(hidden_states, targets, chunk_size, **kwargs)
            return loss, DeferredLogits(self.project, hidden_states, self.lm_head)
        logits = self.project(hidden_states)
        if own_loss is not None:
            return own_loss(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs), logits
        return lm_loss(logits, targets, **kwargs), logits


def select_positions(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """Selects the positions whose logits are wanted, with transformers' meaning of `logits_to_keep`.

    Args:
        hidden_states: (batch, length, hidden).
        logits_to_keep: The number of last positions, 0 for all; or indices (kept,) for all sequences or (batch, kept)
            for each; or a boolean mask (batch, length), which gives (kept in all sequences, hidden).
    """
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:]
    if logits_to_keep.ndim == 1:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return hidden_states.take_along_dim(logits_to_keep[..., None], dim=1)
