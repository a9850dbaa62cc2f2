"""BigBird: attention to global, neighbouring and random blocks of tokens."""

# Shapes: B batch, H query heads, G key-value heads, Q queries, K keys, D head size.

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.utils.import_utils import is_tracing

from ...configuration.configuration_trine import TrineConfig
from ..caches.tokens import BigBirdCacheLayer
from ..kernels.blocks.bigbird_layout import BigBirdLayout, BigBirdPattern, make_layout, traceable
from ..kernels.blocks.bigbird_step import bigbird_step, step_tokens, visible_states
from ..kernels.blocks.sparse import BlockSparseInputs, block_sparse_attention
from ..masks.visibility import EVERYTHING
from .softmax import SoftmaxAttention


def remember(
    past_key_values: Cache, key: torch.Tensor, value: torch.Tensor, layer_idx: int
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Puts keys and values (B, G, Q, D) into the cache; returns those of all tokens (B, G, K, D), and their number.

    A static cache gives a single token those of all places, and as the number a tensor; several tokens, as of a
    prompt, wait for the number.
    """
    keys, values = past_key_values.update(key, value, layer_idx)
    count: Any = past_key_values.get_seq_length(layer_idx)
    if isinstance(count, torch.Tensor) and key.shape[2] > 1:
        count = int(count)
        keys, values = keys[:, :, :count], values[:, :, :count]
    return keys, values, count


class BigBirdAttention(SoftmaxAttention):
    """Softmax attention in which a block of tokens sees global blocks, a window of blocks, and random blocks.

    Blocks are counted from the first real token of each sequence. In an encoder half of the global blocks begin the
    sequence and half end it, their tokens see all of it, and the window is centred. In a decoder global blocks begin
    the sequence, the window ends with a block's own, random blocks lie before it, and no token sees a later one.

    Random blocks differ from head to head, and each block draws its own, without repetition. The numbers behind them
    are made once and stored with the weights, so a loaded model attends alike.

    Cost O(Q * seen blocks * block size), and O(K * block size) for each global block of an encoder. Cache: all tokens,
    of which a step reads the blocks that it sees.
    Source: Zaheer et al. 2020, arXiv 2007.14062, section 2 and appendix D (internal transformer construction). For
    decoders, of which it says nothing, the pattern is cut to the past.
    """

    cache_layer_class = BigBirdCacheLayer
    random_draws: torch.Tensor | None

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.pattern = BigBirdPattern.of(config)
        rows = -(-config.max_position_embeddings // self.pattern.block_size)
        shape = config.num_attention_heads, rows, self.pattern.num_random
        self.random_draws = nn.Buffer(torch.zeros(shape, dtype=torch.int32)) if self.pattern.num_random else None

    def initialize(self) -> None:
        super().initialize()
        if self.random_draws is not None:
            draws = torch.randint(2**31, self.random_draws.shape, device=self.random_draws.device)
            init.copy_(self.random_draws, draws.int())

    def forward(
        self, hidden_states, visibility=EVERYTHING, *, position_embeddings=None, past_key_values=None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mixes the tokens of `hidden_states` (B, Q, hidden) and returns the same shape, and no weights.

        Args:
            hidden_states: (B, Q, hidden).
            visibility: Padding or packed sequences, (B, tokens so far).
        """
        query, key, value = self.project(hidden_states, position_embeddings)
        num_queries, num_keys = query.shape[2], key.shape[2]
        if past_key_values is not None:
            key, value, num_keys = remember(past_key_values, key, value, self.layer_idx)
        query, key = query.to(value.dtype), key.to(value.dtype)
        is_token, segments = visibility.is_token, traceable(visibility.segments)
        draws = self.own_draws(query.shape[1])
        if past_key_values is not None and num_queries == 1:
            if is_token is None and isinstance(num_keys, int) and not is_tracing(query):
                return self.step(query, key, value, draws, past_key_values.layers[self.layer_idx]), None
            tokens = step_tokens(self.pattern, draws, is_token, num_keys, query.device)
            has_query = None if is_token is None else is_token[:, -1]
            return self.o_proj(bigbird_step(query, key, value, tokens, has_query, self.scaling)), None
        layout = make_layout(self.pattern, draws, is_token, segments, num_queries, key.shape[2], query.device)
        if segments is not None:  # all rows in one
            query, key, value = (states.transpose(0, 1).flatten(1, 2)[None] for states in (query, key, value))
        output = self.attend_blocks(query, key, value, layout)
        if is_token is not None:
            output = output.masked_fill(layout.places[..., None] < 0, 0.0)
        return self.o_proj(output.view(*hidden_states.shape[:2], -1)), None

    def step(self, query, key, value, draws: torch.Tensor | None, cache_layer: Any) -> torch.Tensor:
        """Mixes a single token (B, H, 1, D), the last of (B, G, K, D), in a batch without padding: (B, 1, hidden)."""
        key, value = visible_states(self.pattern, draws, key, value, cache_layer)
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, scale=self.scaling, enable_gqa=key.shape[1] != query.shape[1]
        )
        return self.o_proj(output.transpose(1, 2).flatten(2))

    def own_draws(self, num_heads: int) -> torch.Tensor | None:
        """The rows of `random_draws` for the heads computed here, (heads, rows, random blocks), or None without any.

        Under tensor parallelism, these are this process's share.
        """
        if self.random_draws is None or num_heads == len(self.random_draws):
            return self.random_draws
        weight: Any = self.q_proj.weight  # spread by heads
        return self.random_draws.split(num_heads)[weight.device_mesh.get_local_rank()]

    def attend_blocks(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: BigBirdLayout
    ) -> torch.Tensor:
        """Outputs (B, Q, H * D) of queries (B, H, Q, D); those without a place are arbitrary."""
        outputs = []
        for query_blocks, block_indices in layout.calls:
            tables = query_blocks, layout.key_blocks, block_indices
            options = {"is_causal": self.is_causal, "scale": self.scaling}
            output, _ = block_sparse_attention(BlockSparseInputs(query, key, value, *tables, **options))
            outputs.append(output.flatten(2, 3))
        output = torch.cat(outputs, dim=2).transpose(1, 2)  # (B, places, H, D)
        batch, num_places = output.shape[:2]
        base = torch.arange(batch, device=query.device)[:, None] * num_places
        rows = (layout.places.clamp(min=0) + base).flatten()
        return output.reshape(batch * num_places, -1).index_select(0, rows).view(batch, -1, output[0, 0].numel())
