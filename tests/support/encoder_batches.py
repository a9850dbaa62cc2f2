"""Configs like BERT's and ModernBERT's, and rows of different lengths, padded and packed."""

import torch
from support.tiny import random_ids
from torch import nn


BERT = {
    "is_causal": False,
    "position_type": "learned",
    "type_vocab_size": 2,
    "norm_type": "layernorm",
    "norm_position": "post",
    "embedding_norm": True,
    "hidden_act": "gelu",
    "gated_mlp": False,
    "attention_bias": True,
    "mlp_bias": True,
    "num_key_value_heads": 4,
    "norm_eps": 1e-12,
    "add_pooling_layer": True,
}
MODERNBERT = {
    "is_causal": False,
    "norm_type": "layernorm",
    "norm_bias": False,
    "first_attention_norm": False,
    "embedding_norm": True,
    "hidden_act": "gelu",
    "num_hidden_layers": 3,
    "attention_types": "full, sliding*2",
    "sliding_window": 2,
    "rope_parameters": {"full_attention": {"rope_theta": 500.0}, "sliding_attention": {"rope_theta": 20.0}},
    "classifier_transform": True,
}


def ragged(lengths=(11, 4, 9)) -> list[torch.Tensor]:
    return [random_ids(length, seed=length) for length in lengths]


def padded(rows: list[torch.Tensor], side: str = "right", fill: int = 0) -> dict[str, torch.Tensor]:
    width = max(map(len, rows)) + 2
    pads = [(0, width - len(row)) if side == "right" else (width - len(row), 0) for row in rows]
    ids = [nn.functional.pad(row, pad, value=fill) for row, pad in zip(rows, pads, strict=True)]
    ones = [nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(rows, pads, strict=True)]
    return {"input_ids": torch.stack(ids), "attention_mask": torch.stack(ones)}


def packed(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
    }
