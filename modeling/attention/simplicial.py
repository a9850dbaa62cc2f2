"""2-simplicial attention: every token weighs pairs of tokens."""

# Shapes: B batch, H heads, G key-value heads, Q queries, K keys, M second keys, D head size.

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import initialization as init
from transformers.cache_utils import Cache

from ...configuration.configuration_trine import TrineConfig
from ..caches.simplicial import SimplicialCacheLayer
from ..initialization import fill_
from ..kernels.simplicial.forms import FORMS, make_window
from ..kernels.simplicial.inputs import SimplicialInputs
from ..kernels.simplicial.table import choose_backend
from ..masks.visibility import EVERYTHING, Visibility
from ..norms import RMSNorm
from ..positions.rope import apply_rotation
from .softmax import TwoKeyAttention


class SimplicialAttention(TwoKeyAttention):
    """Softmax attention to pairs (j, k) of tokens, each from a window of its own.

    The logit of a pair is `<compose(q_i, k'_k), k_j> * scale + bias[k - i]`, one softmax runs over all pairs, and the
    output is the weighted sum of `v_j * v'_k`. The second keys and values have projections of their own, whose biases
    begin at the values with which the layer is sliding-window attention; their weights then add what pairs say.

    Rotary positions turn queries and first keys, and in the form `determinant` second keys, too.

    Cost O(Q * simplicial_window * simplicial_second_window). Cache: the last tokens of both windows.
    Source: Clift et al. 2019, arXiv 1909.00668; windows and forms: Roy et al. 2025, Fast and Simplex,
    arXiv 2507.02754. The complex form, the offset bias and the beginning as sliding-window attention are Trine's.
    """

    cache_layer_class = SimplicialCacheLayer

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.form = config.simplicial_form
        self.scaling = FORMS[self.form].scale(self.head_dim)
        self.windows = config.simplicial_window, config.simplicial_second_window
        self.reaches = {
            "first": make_window(config.simplicial_window, config.is_causal),
            "second": make_window(config.simplicial_second_window, config.is_causal),
        }
        size = config.num_key_value_heads * self.head_dim
        self.second_k_proj = nn.Linear(config.hidden_size, size)
        self.second_v_proj = nn.Linear(config.hidden_size, size)
        # A layer norm would remove the constant that the second keys begin with.
        self.second_k_norm = RMSNorm(self.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.offset_bias = None
        if config.simplicial_offset_bias:
            shape = config.num_attention_heads, config.simplicial_second_window
            self.offset_bias = nn.Parameter(torch.empty(shape))

    def initialize(self) -> None:
        super().initialize()
        unit = FORMS[self.form].unit or (0.0,)
        values = torch.tensor(unit, dtype=torch.float64).repeat_interleave(self.head_dim // len(unit))
        heads = self.second_k_proj.out_features // self.head_dim
        init.copy_(self.second_k_proj.bias, values.repeat(heads).to(self.second_k_proj.bias))
        init.ones_(self.second_v_proj.bias)
        for projection in (self.second_k_proj, self.second_v_proj):
            if self.config.simplicial_warm_start:
                init.zeros_(projection.weight)
            else:
                fill_(projection.weight, self.config)
        if self.config.simplicial_warm_start and isinstance(self.second_k_norm, nn.RMSNorm):
            # The constant has a mean square of 1.
            init.constant_(self.second_k_norm.weight, (1.0 + self.config.norm_eps) ** 0.5)
        if self.offset_bias is not None:
            init.zeros_(self.offset_bias)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] it returns weights of both keys
        self,
        hidden_states: torch.Tensor,
        visibility: Visibility = EVERYTHING,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Mixes the tokens of `hidden_states`.

        Args:
            hidden_states: (B, Q, hidden).
            visibility: Padding or packed sequences, (B, tokens so far).

        Returns:
            (B, Q, hidden); and, by the path `eager`, the weights of first keys (B, H, Q, K), summed over second keys,
            and those of second keys (B, H, Q, M), summed over first keys.
        """
        query, key, value = self.project(hidden_states, position_embeddings)
        second_key = self._heads_first(self.second_k_proj(hidden_states), self.second_k_norm)
        second_value = self._heads_first(self.second_v_proj(hidden_states))
        if position_embeddings is not None and self.form == "determinant":
            second_key = apply_rotation(second_key, *position_embeddings)
        if past_key_values is not None:
            seconds = {"second_keys": second_key, "second_values": second_value, "windows": self.windows}
            keys, values = past_key_values.update(key, value, self.layer_idx, **seconds)
            (key, second_key), (value, second_value) = keys, values
        longer = key if key.shape[2] > second_key.shape[2] else second_key
        segments = self.number_segments(visibility, longer, past_key_values)
        bias = self.offset_bias
        if isinstance(bias, DTensor):  # tensor parallelism: that of this process's heads
            bias = bias.to_local()
        dtype = value.dtype
        inputs = SimplicialInputs(
            query.to(dtype),
            key.to(dtype),
            value,
            second_key.to(dtype),
            second_value.to(dtype),
            bias,
            segments,
            **self.reaches,
            form=self.form,
            scale=self.scaling,
        )
        output, weights, second_weights = choose_backend(self.config, query, self.reaches["second"])(inputs)
        return self.o_proj(output.transpose(1, 2).flatten(2)), weights, second_weights

    def number_segments(
        self, visibility: Visibility, keys: torch.Tensor, past_key_values: Cache | None
    ) -> torch.Tensor | None:
        """The segments (B, N) of the last tokens of `SimplicialInputs`, or None where all are one.

        Args:
            visibility: Padding or packed sequences, (B, tokens so far).
            keys: First or second keys (B, G, N, D), whichever are more.
            past_key_values: The cache, whose windows begin with empty places if it is a static one.
        """
        segments, is_token = visibility.segments, visibility.is_token
        batch, _, length, _ = keys.shape
        count = None if past_key_values is None else past_key_values.get_seq_length(self.layer_idx)
        if isinstance(count, torch.Tensor):  # a static cache
            places = torch.arange(length, device=count.device) >= length - count
            segments = places.to(torch.int32).expand(batch, -1)
        if is_token is not None:
            missing = 0 if segments is None else max(0, length - is_token.shape[1])
            segments = nn.functional.pad(is_token[:, -length:].to(torch.int32), (missing, 0))
        return segments
