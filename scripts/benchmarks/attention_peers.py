"""Other implementations of the attention kinds, which `trine benchmark attention` times beside Trine's layers.

All but transformers' are optional: packages on PyPI that compute with nothing but PyTorch, on a CPU too.
"""

# Shapes: B batch, H heads, L tokens, D head size.

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from trine import TrineConfig


class Projected(nn.Module):
    """Attention on (B, H, L, D) between projections, none of which has a bias."""

    def __init__(self, config: TrineConfig, attend: Callable[..., torch.Tensor]):
        super().__init__()
        self.heads, self.attend = config.num_attention_heads, attend
        size = config.hidden_size
        self.projections = nn.ModuleList([nn.Linear(size, size, bias=False) for _ in range(3)])
        self.output = nn.Linear(size, size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Maps (1, L, hidden) to the same shape."""
        states = (project(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in self.projections)
        return self.output(self.attend(*states).transpose(1, 2).flatten(2))


class LibraryBigBird(nn.Module):
    """The block-sparse layer of transformers' BigBird, an encoder's, and a projection of its output."""

    def __init__(self, config: TrineConfig):
        from transformers import BigBirdConfig
        from transformers.models.big_bird import modeling_big_bird

        super().__init__()
        options = BigBirdConfig(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            block_size=config.bigbird_block_size,
            num_random_blocks=config.bigbird_num_random_blocks,
            use_bias=False,
        )
        self.block_size = config.bigbird_block_size
        self.make_masks = modeling_big_bird.BigBirdModel.create_masks_for_block_sparse_attn
        self.attention = modeling_big_bird.BigBirdBlockSparseAttention(options, seed=0)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Maps (1, L, hidden) to the same shape."""
        blocked, band, rows, columns = self.make_masks(torch.ones(hidden.shape[:2]), self.block_size)
        return self.output(self.attention(hidden, band, rows, columns, blocked, blocked)[0])


class LibraryReformer(nn.Module):
    """The hashing layer of transformers' Reformer and its projection of the output."""

    def __init__(self, config: TrineConfig):
        from transformers import ReformerConfig
        from transformers.models.reformer import modeling_reformer

        super().__init__()
        options = ReformerConfig(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            attention_head_size=config.head_dim,
            attn_layers=["lsh"],
            is_decoder=config.is_causal,
            lsh_attn_chunk_length=config.lsh_chunk_length,
            lsh_num_chunks_before=config.lsh_num_adjacent_chunks,
            lsh_num_chunks_after=0 if config.is_causal else config.lsh_num_adjacent_chunks,
            num_hashes=config.lsh_num_hashes,
            num_buckets=config.lsh_num_buckets,
            max_position_embeddings=config.max_position_embeddings,
            lsh_attention_probs_dropout_prob=0.0,
            hidden_dropout_prob=0.0,
        )
        self.attention = modeling_reformer.LSHSelfAttention(options)
        self.output = modeling_reformer.ReformerSelfOutput(options)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Maps (1, L, hidden) to the same shape."""
        return self.output(self.attention(hidden).hidden_states)


def reformer_pytorch(config: TrineConfig) -> nn.Module:
    """The LSH layer of the package reformer-pytorch."""
    from reformer_pytorch import LSHSelfAttention  # pyright: ignore[reportMissingImports] optional

    return LSHSelfAttention(
        config.hidden_size,
        heads=config.num_attention_heads,
        bucket_size=config.lsh_chunk_length,
        n_hashes=config.lsh_num_hashes,
        causal=config.is_causal,
        attend_across_buckets=False,
    )


def performer_pytorch(config: TrineConfig) -> nn.Module:
    """The Performer layer of the package performer-pytorch."""
    from performer_pytorch import SelfAttention  # pyright: ignore[reportMissingImports] optional

    return SelfAttention(
        config.hidden_size,
        heads=config.num_attention_heads,
        dim_head=config.head_dim,
        nb_features=config.performer_num_features,
        causal=config.is_causal,
    )


def linear_of_performer_pytorch(config: TrineConfig) -> nn.Module:
    """The linear attention of the package performer-pytorch, with `elu` features."""
    from performer_pytorch import performer_pytorch  # pyright: ignore[reportMissingImports] optional

    name = "causal_linear_attention_noncuda" if config.is_causal else "linear_attention"
    attend = getattr(performer_pytorch, name)

    def on_features(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return attend(nn.functional.elu(query) + 1, nn.functional.elu(key) + 1, value)

    return Projected(config, on_features)


def local_attention(config: TrineConfig, *, look: int) -> nn.Module:
    """A layer of the package local-attention whose windows see `look` windows back, in an encoder also forward."""
    from local_attention import LocalAttention  # pyright: ignore[reportMissingImports] optional

    attend = LocalAttention(
        config.sliding_window if look else config.attention_chunk_size,
        causal=config.is_causal,
        look_backward=look,
        look_forward=0 if config.is_causal else look,
        autopad=True,
        exact_windowsize=bool(look),
        use_rotary_pos_emb=False,
    )
    return Projected(config, attend)


@dataclass(frozen=True)
class Peer:
    """Another implementation of an attention kind.

    Attributes:
        kind: Trine's name of the kind.
        build: Makes a layer (1, L, hidden) to (1, L, hidden) of our config; ImportError where it is not installed.
        fields: Function of the number of tokens that gives fields of our config for an equal setting.
        shapes: Whether decoders (True) and encoders (False) have it.
    """

    kind: str
    build: Callable[[TrineConfig], nn.Module]
    fields: Callable[[int], dict[str, Any]] = lambda length: {}
    shapes: tuple[bool, ...] = field(default=(True, False))


def chunk_buckets(length: int) -> dict[str, Any]:
    """Fields with one bucket per chunk of 64 tokens, as `reformer-pytorch` has it."""
    return {"lsh_chunk_length": 64, "lsh_num_buckets": max(2, length // 64)}


PEERS = {
    "transformers, BigBird": Peer("bigbird", LibraryBigBird, shapes=(False,)),
    "transformers, Reformer": Peer("lsh", LibraryReformer, chunk_buckets),
    "reformer-pytorch": Peer("lsh", reformer_pytorch, chunk_buckets),
    "performer-pytorch": Peer("performer", performer_pytorch),
    "performer-pytorch, elu + 1": Peer("linear", linear_of_performer_pytorch),
    "local-attention": Peer("sliding", partial(local_attention, look=1)),
    "local-attention, no look": Peer("chunked", partial(local_attention, look=0)),
}
