"""Attention by locality-sensitive hashing: every token sees tokens that fall into its buckets."""

# Shapes: B batch, H query heads, G key-value heads, Q queries, K keys, D head size, R hashes.

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from ...configuration.configuration_trine import TrineConfig
from ..caches.tokens import LSHCacheLayer
from ..initialization import fill_
from ..kernels.blocks.lsh_chunks import recent_of_bucket, sort_into_chunks
from ..kernels.blocks.lsh_step import StepInputs, lsh_step
from ..kernels.blocks.sparse import SELF_SCORE, BlockSparseInputs, block_sparse_attention
from ..masks.visibility import EVERYTHING, Visibility
from ..positions.rope import apply_rotation
from .softmax import SoftmaxAttention


# How many pairs of a query and a cached token are compared at a time.
COMPARED = 2**24


class LSHAttention(SoftmaxAttention):
    """Softmax attention within buckets of similar tokens; queries and keys are the same vectors, keys of unit length.

    A hash puts each token into the bucket of the direction nearest to it, among `lsh_num_buckets / 2` random ones and
    their opposites. A token sees the tokens in its own chunk of `lsh_chunk_length` tokens of the bucket, and in
    `lsh_num_adjacent_chunks` chunks before it, in an encoder after it too; itself only if it sees no other. The
    results of `lsh_num_hashes` hashes are merged by the sums of their weights.

    The directions are drawn once, from PyTorch's generator, and stored with the model. Rotary positions turn the
    vectors after the hash, which reads what a token is, not where.

    Cost O(N log N) to sort and O(N * hashes * chunk) to attend. Cache: all tokens and their buckets.
    Source: Kitaev et al. 2020, Reformer, arXiv 2001.04451. That chunks are counted within a bucket, so that no token
    depends on later ones, is Trine's.
    """

    cache_layer_class = LSHCacheLayer

    def __init__(self, config: TrineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        del self.k_proj, self.k_norm
        self.repeat = config.num_attention_heads // config.num_key_value_heads
        self.chunk_length = config.lsh_chunk_length
        self.adjacent = config.lsh_num_adjacent_chunks
        shape = self.head_dim, config.lsh_num_hashes, config.lsh_num_buckets // 2
        self.directions = nn.Buffer(torch.empty(shape, dtype=torch.float32))

    def initialize(self) -> None:
        fill_(self.q_proj.weight, self.config)
        fill_(self.v_proj.weight, self.config)
        fill_(self.o_proj.weight, self.config, into_residual=True)
        init.normal_(self.directions)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] it takes no bias
        self, hidden_states, visibility=EVERYTHING, *, position_embeddings=None, past_key_values=None, **kwargs
    ) -> tuple[torch.Tensor, None]:
        """Mixes the tokens of `hidden_states` (B, Q, hidden)."""
        query = self._heads_first(self.q_proj(hidden_states), self.q_norm)
        value = self._heads_first(self.v_proj(hidden_states))
        buckets = self.hash(query)
        if position_embeddings is not None:
            query = apply_rotation(query, *position_embeddings)
        key = nn.functional.rms_norm(query, (self.head_dim,), eps=1e-6)
        if past_key_values is not None:
            by_hash = buckets.transpose(2, 3)
            states: Any = past_key_values.update(key, value, self.layer_idx, buckets=by_hash.flatten(1, 2))
            (key, value), buckets = states
            buckets = buckets.view(*by_hash.shape[:3], -1)
            count: Any = past_key_values.get_seq_length(self.layer_idx)
            if query.shape[2] == 1:
                inputs = StepInputs(query.to(value.dtype), key.to(value.dtype), value, buckets, visibility.is_token)
                output = lsh_step(inputs, count, self.chunk_length, self.adjacent, self.scaling)
                return self.o_proj(output.transpose(1, 2).flatten(2)), None
            buckets = buckets.transpose(2, 3)
            if isinstance(count, torch.Tensor):  # a static cache, of which a prompt reads the places in use
                key, value, buckets = (states[:, :, : int(count)] for states in (key, value, buckets))
        query, key = query.to(value.dtype), key.to(value.dtype)
        attend = self.attend_to_all if key.shape[2] == query.shape[2] else self.attend_to_past
        output, normalizers = attend(query, key, value, buckets, visibility)
        output = (output * normalizers.softmax(dim=2)[..., None]).sum(dim=2).to(value.dtype)
        return self.o_proj(output.transpose(1, 2).flatten(2)), None

    @torch.no_grad()
    def hash(self, states: torch.Tensor) -> torch.Tensor:
        """The buckets (B, H, Q, R) of states (B, H, Q, D)."""
        dtype = states.dtype if states.dtype.itemsize >= 4 else torch.float32
        states, directions = states.to(dtype), self.directions.to(dtype)

        def nearest(directions: torch.Tensor) -> torch.Tensor:
            nearness = torch.matmul(states, directions.flatten(1)).unflatten(-1, directions.shape[1:])
            return torch.cat([nearness, -nearness], dim=-1).argmax(dim=-1).to(torch.int32)

        if states.shape[2] == 1:
            return nearest(directions)
        # One hash at a time bounds the memory.
        return torch.cat([nearest(hashed) for hashed in directions.split(1, dim=1)], dim=-1)

    def attend_to_all(self, query, key, value, buckets, visibility: Visibility) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs (B, H, R, Q, D) of each hash, and the logarithms (B, H, R, Q) of the sums of its weights."""
        chunks = sort_into_chunks(
            *(buckets, visibility.is_token, visibility.segments),
            *(self.chunk_length, self.adjacent, self.is_causal),
        )
        inputs = BlockSparseInputs(
            *(query, key, value if self.repeat == 1 else value.repeat_interleave(self.repeat, dim=1)),
            *(chunks.blocks, chunks.blocks, chunks.block_indices, chunks.labels, chunks.labels),
            is_causal=self.is_causal,
            adjacent=self.adjacent,
            masks_self=True,
            scale=self.scaling,
        )
        output, normalizers = block_sparse_attention(inputs)
        hashes = buckets.shape[-1]
        output = output.flatten(2, 3).unflatten(2, (hashes, -1))
        normalizers = normalizers.flatten(2, 3).unflatten(2, (hashes, -1))
        index = chunks.places[..., None].expand(-1, -1, -1, -1, self.head_dim)
        return output.gather(3, index), normalizers.gather(3, chunks.places)

    def attend_to_past(self, query, key, value, buckets, visibility: Visibility) -> tuple[torch.Tensor, torch.Tensor]:
        """Attends from a few queries to many cached tokens.

        Returns:
            Outputs (B, H, R, Q, D) of each hash, and the logarithms (B, H, R, Q) of the sums of its weights.
        """
        batch, heads, length, hashes = buckets.shape
        num_queries = query.shape[2]
        step = max(1, COMPARED // (batch * heads * length * hashes))
        results = []
        for start in range(0, num_queries, step):
            stop = min(start + step, num_queries)
            end = length - num_queries + stop
            is_token = None if visibility.is_token is None else visibility.is_token[:, :end]
            arguments = (stop - start, is_token, self.chunk_length, self.adjacent)
            tokens = recent_of_bucket(buckets[:, :, :end], *arguments)  # (B, H, queries * R, N)
            results.append(self.attend_to_tokens(query[:, :, start:stop], key, value, tokens, end - stop + start))
        outputs, normalizers = zip(*results, strict=True)
        return torch.cat(outputs, dim=3), torch.cat(normalizers, dim=3)

    def attend_to_tokens(self, query, key, value, tokens, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Attends from queries that begin at `place` to the `tokens` (B, H, queries * R, N) that their hashes see.

        Returns:
            Outputs (B, H, R, Q, D) of each hash, and the logarithms (B, H, R, Q) of the sums of its weights.
        """
        batch, heads, num_queries = query.shape[:3]
        hashes = tokens.shape[2] // num_queries
        rows = torch.arange(batch, device=query.device)[:, None, None, None]
        columns = torch.arange(heads, device=query.device)[:, None, None]
        index = tokens.clamp(min=0)
        keys, values = key[rows, columns, index], value[rows, columns // self.repeat, index]
        own = (place + torch.arange(num_queries, device=query.device)).repeat_interleave(hashes)[:, None]
        scores = torch.matmul(keys, query.repeat_interleave(hashes, dim=2)[..., None])[..., 0]
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * self.scaling
        scores = scores.masked_fill(tokens == own, SELF_SCORE)
        scores = scores.masked_fill(tokens < 0, torch.finfo(scores.dtype).min)  # padding sees nothing
        output = torch.matmul(scores.softmax(dim=-1).to(values.dtype)[..., None, :], values)[..., 0, :]
        results = output, scores.logsumexp(dim=-1)
        output, normalizers = (result.unflatten(2, (num_queries, hashes)).transpose(2, 3) for result in results)
        return output, normalizers
