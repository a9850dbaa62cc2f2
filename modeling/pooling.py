"""Pooling: one vector per sequence, from the hidden states of its tokens."""

# Shapes: B rows of a batch, N tokens in a row, S sequences (as many as rows, unless one row packs several), H hidden.

import torch
from torch import nn
from transformers.masking_utils import find_packed_sequence_indices

from ..configuration.choices import Choices
from ..configuration.configuration_trine import TrineConfig
from .initialization import fill_


def sequence_masks(
    hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """Masks of the tokens of each sequence, (S, N), as 1 and 0; padding, on whichever side, is 0.

    A single row whose positions start again, without a mask, packs sequences one after the other.

    Args:
        hidden_states: (B, N, H).
        attention_mask: (B, at least N), 1 for a token, 0 for padding. Any other form says nothing about padding.
        position_ids: (1, N) where the row packs several sequences.
    """
    rows, length = hidden_states.shape[:2]
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
        return attention_mask[:, -length:].to(hidden_states.device).long().expand(rows, -1)  # one row serves all
    packed = find_packed_sequence_indices(position_ids) if rows == 1 and position_ids is not None else None
    if packed is None or torch.compiler.is_compiling():
        return torch.ones((rows, length), dtype=torch.long, device=hidden_states.device)
    return (packed == torch.arange(int(packed.max()) + 1, device=packed.device)[:, None]).long()


def without_padding(masks: torch.Tensor, input_ids: torch.Tensor | None, config: TrineConfig) -> torch.Tensor:
    """Masks (S, N) without the padding that the ids (B, N) of a batch without a mask show.

    Only for the pooling `last`: so do transformers' decoders with this head, and no encoders.
    """
    if config.classifier_pooling != "last" or config.pad_token_id is None or input_ids is None:
        return masks
    return masks * (input_ids != config.pad_token_id).to(masks.device)


def first_token(hidden_states: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The first token of each sequence, (S, H), from states (B, N, H) and masks (S, N)."""
    rows = hidden_states.expand(masks.shape[0], -1, -1)
    return rows[torch.arange(masks.shape[0], device=masks.device), masks.argmax(dim=-1)]


def last_token(hidden_states: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The last token of each sequence, (S, H), from states (B, N, H) and masks (S, N)."""
    rows = hidden_states.expand(masks.shape[0], -1, -1)
    order = masks * torch.arange(masks.shape[1], device=masks.device)
    return rows[torch.arange(masks.shape[0], device=masks.device), order.argmax(dim=-1)]


def mean_token(hidden_states: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The mean of the tokens of each sequence, (S, H), from states (B, N, H) and masks (S, N)."""
    weights = masks / masks.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.matmul(weights[:, None].to(hidden_states.dtype), hidden_states).squeeze(1)


# Each maps hidden states (B, N, H) and what `sequence_masks` tells to (S, H).
POOLINGS = Choices("classifier_pooling", {"cls": first_token, "mean": mean_token, "last": last_token})


class TrinePooler(nn.Module):
    """`tanh(W x + b)` of the first token of each sequence.

    Source: Devlin et al. 2018, BERT, arXiv 1810.04805, as released.
    """

    def __init__(self, config: TrineConfig):
        super().__init__()
        self.config = config
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def initialize(self) -> None:
        """Fills the projection, as `config.initializer` says."""
        fill_(self.dense.weight, self.config)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Maps (B, N, H) to (S, H)."""
        first = first_token(hidden_states, sequence_masks(hidden_states, attention_mask, position_ids))
        return torch.tanh(self.dense(first))


POOLERS = Choices("is_causal", {False: TrinePooler})  # a decoder's first token sees no other
