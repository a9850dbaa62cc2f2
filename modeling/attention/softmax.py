"""Pairwise softmax attention: `full`, `sliding` and `chunked` layers, and what they share."""

# Shapes: B batch, H query heads, G key-value heads, Q queries, K keys, D head size.

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...configuration.choices import in_package
from ...configuration.configuration_trine import TrineConfig
from ..initialization import fill_
from ..kernels.autocast import in_float32
from ..masks.visibility import EVERYTHING, Visibility
from ..norms import make_norm
from ..positions.rope import rotate_together


AUTOCAST_KERNELS = in_package((in_float32,))  # faster only


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Transformers' `eager` interface, written out: the truth beside its kernels, and the one that returns weights.

    Args:
        query: (B, H, Q, D).
        key: (B, G, K, D), as is `value`.
        attention_mask: (B, 1, Q, K), added to the scores; a boolean one is True where a query may look.
        position_bias: (1, H, Q, K), added to the scores.

    Returns:
        Output (B, Q, H, D) and weights (B, H, Q, K).
    """
    groups = int(module.num_key_value_groups)  # pyright: ignore[reportArgumentType] a module's attributes have any type
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    dtype = torch.promote_types(query.dtype, torch.float32)
    weights = nn.functional.softmax(scores, dim=-1, dtype=dtype).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def attend_separately(
    attend: Callable,
    lengths: list[int],
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """The attention interface for one row that packs sequences: each costs its own length squared.

    Args:
        attend: The kernel that computes one sequence.
        lengths: Lengths of the sequences, whose sum is Q and K.
        query: (1, H, Q, D).
        key: (1, G, K, D), as is `value`.
        attention_mask: The mask of the longest sequence, of which the others take the first rows and columns.
        position_bias: Likewise.

    Returns:
        Output (1, Q, H, D), and no weights.
    """
    outputs = []
    for length, *states in zip(
        lengths, *(states.split(lengths, dim=2) for states in (query, key, value)), strict=True
    ):
        mask, square = attention_mask, (..., slice(length), slice(length))
        if position_bias is not None:
            kwargs["position_bias"] = position_bias[square]
        outputs.append(attend(module, *states, None if mask is None else mask[square], **kwargs)[0])
    return torch.cat(outputs, dim=1), None


class SoftmaxAttention(nn.Module):
    """Multi-head attention with grouped key-value heads, optional biases, query-key norm and any position encoding.

    The mask alone tells full, sliding and chunked attention apart; the kernel is chosen by transformers'
    `attn_implementation`.
    Source: Vaswani et al. 2017, arXiv 1706.03762; grouped heads: Ainslie et al. 2023, arXiv 2305.13245; query-key
    norm: Henry et al. 2020, arXiv 2010.04245.
    """

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self.attention_dropout = config.attention_dropout
        self.is_causal = config.is_causal
        self.sliding_window: int | None = None  # tells windowed kernels how far to look
        query_size = config.num_attention_heads * self.head_dim
        key_value_size = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)
        self.q_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()

    def initialize(self) -> None:
        """Fills the projections, as `config.initializer` says."""
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            fill_(projection.weight, self.config)
        fill_(self.o_proj.weight, self.config, into_residual=True)

    def forward(
        self,
        hidden_states: torch.Tensor,
        visibility: Visibility = EVERYTHING,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        position_bias: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mixes the tokens of `hidden_states` (B, Q, hidden) and returns the same shape, and weights if eager."""
        query, key, value = self.project(hidden_states, position_embeddings)
        if past_key_values is not None:
            key, value = self.remember(key, value, past_key_values)
        if position_bias is not None:  # a row for each text, as transformers' flex attention looks it up
            kwargs["position_bias"] = position_bias.expand(query.shape[0], -1, -1, -1)
        # vLLM reads this source: it serves a layer whose forward calls one local of ALL_ATTENTION_FUNCTIONS, once.
        implementation = str(self.config._attn_implementation)
        attend: Any = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        for call in AUTOCAST_KERNELS:
            if implementation == "sdpa" and torch.is_autocast_enabled("cpu"):
                attend = partial(call, attend)
        if visibility.band is not None:
            attend = visibility.band.attend
        elif visibility.lengths is not None:
            attend = partial(attend_separately, attend, visibility.lengths)
        output, weights = attend(
            self,
            query,
            key,
            value,
            visibility.mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights

    def project(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, H, Q, D), keys and values (B, G, Q, D) of (B, Q, hidden), rotated where positions rotate."""
        query = self._heads_first(self.q_proj(hidden_states), self.q_norm)
        key = self._heads_first(self.k_proj(hidden_states), self.k_norm)
        value = self._heads_first(self.v_proj(hidden_states))
        if position_embeddings is not None:
            query, key = rotate_together(query, key, *position_embeddings)
        return query, key, value

    def remember(
        self, key: torch.Tensor, value: torch.Tensor, past_key_values: Cache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts keys and values (B, G, Q, D) into the cache; returns those that the mask speaks of, (B, G, K, D)."""
        return past_key_values.update(key, value, self.layer_idx)

    def _heads_first(self, projected: torch.Tensor, norm: nn.Module | None = None) -> torch.Tensor:
        """Views (B, N, heads * D), whose heads `norm` normalises, as (B, heads, N, D)."""
        is_lone = projected.shape[1] == 1  # as in each step of decoding: there is nothing to transpose
        states = projected.view(projected.shape[0], -1, 1, self.head_dim) if is_lone else self.split_heads(projected)
        states = states if norm is None else norm(states)
        return states if is_lone else states.transpose(1, 2)

    def split_heads(self, projected: torch.Tensor) -> torch.Tensor:
        """Views (B, N, heads * D) as (B, N, heads, D)."""
        return projected.view(*projected.shape[:-1], -1, self.head_dim)


class TwoKeyAttention(SoftmaxAttention):
    """Attention of each query to pairs of keys: its third output are the weights of second keys."""


class FullAttention(SoftmaxAttention):
    """Softmax attention without a window.

    Cost O(Q * K). Cache: all tokens.
    Source: Vaswani et al. 2017, arXiv 1706.03762.
    """


class WindowedAttention(SoftmaxAttention):
    """Softmax attention within a window."""

    sees_only_itself = False  # whether the window is of one token

    def remember(
        self, key: torch.Tensor, value: torch.Tensor, past_key_values: Cache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of its base. Of a window of 1 transformers' cache keeps and returns all earlier tokens, too."""
        num_keys, _ = past_key_values.get_mask_sizes(key.shape[2], self.layer_idx)
        key, value = super().remember(key, value, past_key_values)
        return (key[:, :, -num_keys:], value[:, :, -num_keys:]) if self.sees_only_itself else (key, value)


class SlidingAttention(WindowedAttention):
    """Softmax attention in which a token sees the `sliding_window` tokens up to and including itself.

    An encoder's window is centred and reaches `sliding_window` tokens to each side.
    Cost O(Q * sliding_window) with a windowed kernel. Cache: the last `sliding_window - 1` tokens.
    Source: Beltagy et al. 2020, Longformer, arXiv 2004.05150, section 3.1.
    """

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.sliding_window = config.sliding_window
        self.sees_only_itself = config.sliding_window == 1


class ChunkedAttention(WindowedAttention):
    """Softmax attention within chunks of `attention_chunk_size` tokens, counted from the first real token.

    Cost O(Q * attention_chunk_size) with a block kernel. Cache: at most one chunk.
    Source: Llama 4 (Meta 2025); blocks: Child et al. 2019, arXiv 1904.10509.
    """

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.sees_only_itself = config.attention_chunk_size == 1
