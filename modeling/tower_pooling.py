"""Pooling of a dual encoder: one state for a text, one for an image."""

# Shapes: B rows of a batch, N tokens in a row, S texts or images (as many as rows, unless one row packs several),
# H hidden.

from typing import Any

import torch
from torch import nn

from ..configuration.configuration_trine import TrineConfig
from .checks.ids import can_look
from .pooling import first_token, last_token, mean_token


def pool_first(states: torch.Tensor, masks: torch.Tensor, ids: Any, config: TrineConfig) -> torch.Tensor:
    """The state of the first token, (S, H), from states (B, N, H) and masks (S, N)."""
    return first_token(states, masks)


def pool_mean(states: torch.Tensor, masks: torch.Tensor, ids: Any, config: TrineConfig) -> torch.Tensor:
    """The mean of the states of the tokens, (S, H)."""
    return mean_token(states, masks)


def pool_last(states: torch.Tensor, masks: torch.Tensor, ids: Any, config: TrineConfig) -> torch.Tensor:
    """The state of the last token, (S, H)."""
    return last_token(states, masks)


def pool_end(states: torch.Tensor, masks: torch.Tensor, ids: Any, config: TrineConfig) -> torch.Tensor:
    """The state of the last place of each row, padding or not, (B, H): texts are padded to one length, as SigLIP's."""
    if len(masks) != len(states):
        raise ValueError("text_pooling='end' reads the last place of a row, so that a row cannot pack several texts.")
    return states[:, -1]


def pool_eos(states: torch.Tensor, masks: torch.Tensor, ids: Any, config: TrineConfig) -> torch.Tensor:
    """The state of the first `config.eos_token_id` of each text, (S, H).

    Raises:
        ValueError: A text has none, where `can_look` allows a look.
    """
    ids, ends = require_ids(ids, "eos"), config.eos_token_id
    ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=ids.device)
    found = torch.isin(ids, ends).expand(len(masks), -1) & (masks > 0)
    if can_look(found) and not found.any(dim=-1).all():
        missing = (~found.any(dim=-1)).nonzero().flatten().tolist()
        raise ValueError(
            f"input_ids of texts {missing[:5]} hold no eos_token_id={config.eos_token_id}, whose state "
            "text_pooling='eos' reads: a tokenizer that ends its texts adds it, unless they are cut."
        )
    return first_token(states, found.long())


def pool_highest(states: torch.Tensor, masks: torch.Tensor, ids: Any, config: TrineConfig) -> torch.Tensor:
    """The state of the token with the highest id, (S, H): of CLIP's first checkpoints the end of a text."""
    ids = require_ids(ids, "highest_id").expand(len(masks), -1).masked_fill(masks == 0, -1)
    highest = ids == ids.max(dim=-1, keepdim=True).values
    return first_token(states, highest.long())


def require_ids(ids: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """The ids; raises a `ValueError` where embeddings are given in their place."""
    if ids is None:
        raise ValueError(f"text_pooling={pooling!r} reads input_ids, but inputs_embeds are given alone.")
    return ids


class ClassTokenPooling(nn.Module):
    """The state of the class token, (S, H), which stands first."""

    def __init__(self, config: TrineConfig):
        super().__init__()

    def forward(self, states: torch.Tensor, masks: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Maps states (B, N, H), masks (S, N) and places (B or 1, N) of patches, which are below 0 before them."""
        return first_token(states, masks)


class MeanPooling(ClassTokenPooling):
    """The mean of the states of the patches, (S, H), without those of class and register tokens."""

    def forward(self, states: torch.Tensor, masks: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return mean_token(states, masks * (places >= 0).to(masks))
