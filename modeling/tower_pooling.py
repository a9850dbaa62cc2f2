"""Pooling of a dual encoder: one state for a text, one for an image."""

# Shapes: B rows of a batch, N tokens in a row, S texts or images (as many as rows, unless one row packs several),
# H hidden.

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from ..configuration.choices import Choices
from ..configuration.configuration_trine import TrineConfig
from .attention.cross import CrossAttention
from .checks.ids import can_look
from .feed_forward.mlp import make_mlp
from .norms import make_norm
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


# Each maps states (B, N, H), the masks (S, N) of the tokens of each text, ids (B, N) or None, and the config to (S, H).
TEXT_POOLINGS = Choices(
    "text_pooling",
    {
        "cls": pool_first,
        "mean": pool_mean,
        "last": pool_last,
        "eos": pool_eos,
        "highest_id": pool_highest,
        "end": pool_end,
    },
)


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


class AttentionPooling(nn.Module):
    """`y + mlp(norm(y))`, (S, H), where y is what the attention of a learned query to all tokens of an image reads.

    Cost O(N) for each image; one row of several images costs O(S * N).
    Source: Zhai et al. 2021, Scaling vision transformers, arXiv 2106.04560, section 3.3; Lee et al. 2018, Set
    transformer, arXiv 1810.00825, section 3.2.
    """

    def __init__(self, config: TrineConfig):
        super().__init__()
        self.config = config
        self.probe = nn.Parameter(torch.empty(config.hidden_size))
        self.attention = CrossAttention(config, 0)
        self.layernorm = make_norm(config, config.hidden_size)
        self.mlp = make_mlp(config)

    def initialize(self) -> None:
        """Fills the query with `initializer_range`."""
        init.normal_(self.probe, mean=0.0, std=self.config.initializer_range)

    def forward(self, states: torch.Tensor, masks: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """As of `ClassTokenPooling`."""
        is_packed = len(masks) != len(states)
        rows = states.expand(len(masks), -1, -1)
        seen = masks[:, None, None].bool() if is_packed else None
        pooled, _ = self.attention(self.probe.to(states.dtype).expand(len(masks), 1, -1), rows, seen)
        return (pooled + self.mlp(self.layernorm(pooled)))[:, 0]


VISION_POOLINGS = Choices(
    "vision_pooling", {"cls": ClassTokenPooling, "mean": MeanPooling, "attention": AttentionPooling}
)
