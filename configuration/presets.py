"""Named sizes. Each is a set of `TrineConfig` keywords; `TrineConfig.from_preset(name, **overrides)` reads it."""

from collections.abc import Collection
from copy import deepcopy
from typing import Any

from .patterns import check_choice


BERT = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "position_type": "learned",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "norm_type": "layernorm",
    "norm_position": "post",
    "norm_eps": 1e-12,
    "embedding_norm": True,
    "hidden_act": "gelu",
    "gated_mlp": False,
    "attention_bias": True,
    "mlp_bias": True,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
    "is_causal": False,
    "add_pooling_layer": True,
    "pad_token_id": 0,
}
TRANSFORMER_BASE = {
    "vocab_size": 37000,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "position_type": "sinusoidal",
    "max_position_embeddings": 1024,
    "norm_type": "layernorm",
    "norm_position": "post",
    "norm_eps": 1e-6,
    "hidden_act": "relu",
    "gated_mlp": False,
    "mlp_bias": True,
    "scale_embedding": True,
    "hidden_dropout": 0.1,
    "initializer": "xavier",
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
T5_LIKE = {
    "vocab_size": 32128,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "head_dim": 64,
    "position_type": "relative",
    "max_position_embeddings": 512,
    "hidden_act": "gelu_new",
    "hidden_dropout": 0.1,
    "pad_token_id": 0,
    "eos_token_id": 1,
}

TINY_STACK = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
}

PRESETS = {
    # A model for a laptop and for tests: every example of the README runs on it in seconds.
    "tiny": {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attention_types": "sliding, full",
        "sliding_window": 64,
        "attention_chunk_size": 64,
        "max_position_embeddings": 512,
    },
    # Radford et al. 2019, the 124 M model.
    "gpt2": {
        "vocab_size": 50257,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "position_type": "learned",
        "max_position_embeddings": 1024,
        "norm_type": "layernorm",
        "norm_eps": 1e-5,
        "hidden_act": "gelu_new",
        "gated_mlp": False,
        "attention_bias": True,
        "mlp_bias": True,
        "attention_dropout": 0.1,
        "hidden_dropout": 0.1,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
    # The recipe of Touvron et al. 2023 (arXiv 2302.13971) with grouped heads, at a size that one GPU trains.
    "llama-like": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    # The recipe of Jiang et al. 2024 (arXiv 2401.04088) at the same size.
    "mixtral-like": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "mlp_layer_types": "sparse",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "output_router_logits": True,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    # Devlin et al. 2018 (arXiv 1810.04805), BERT-base and BERT-large, uncased.
    "bert-base": BERT,
    "bert-large": {
        **BERT,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    # Liu et al. 2019 (arXiv 1907.11692), the base model. Its table of positions has two rows more than it uses.
    "roberta-base": {
        **BERT,
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "norm_eps": 1e-5,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    },
    # The recipe of Warner et al. 2024 (arXiv 2412.13663): every third layer global, the others see 64 tokens to each
    # side; GeGLU, rotary positions, pre-norm, no biases.
    "modernbert-like": {
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "attention_types": "full, sliding*2",
        "sliding_window": 64,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "max_position_embeddings": 8192,
        "norm_type": "layernorm",
        "norm_eps": 1e-5,
        "norm_bias": False,
        "first_attention_norm": False,
        "embedding_norm": True,
        "hidden_act": "gelu",
        "is_causal": False,
        "classifier_pooling": "mean",
        "classifier_transform": True,
        "bos_token_id": 50281,
        "eos_token_id": 50282,
        "pad_token_id": 50283,
    },
}

# Both stacks of an encoder-decoder, and what they share; `TrineSeq2SeqConfig.from_preset(name, **overrides)` reads it.
SEQ2SEQ_PRESETS = {
    # For a laptop and for tests.
    "tiny": {
        "encoder": TINY_STACK,
        "decoder": TINY_STACK,
    },
    # Vaswani et al. 2017 (arXiv 1706.03762), the base model: table 3, sections 3.3 to 3.5 and 5.4.
    "transformer-base": {
        "encoder": TRANSFORMER_BASE,
        "decoder": TRANSFORMER_BASE,
    },
    # The recipe of T5 1.1 small (Raffel et al. 2019, arXiv 1910.10683; Shazeer 2020, arXiv 2002.05202).
    "t5-like": {
        "encoder": T5_LIKE,
        "decoder": T5_LIKE,
        "tie_word_embeddings": False,
    },
}

# What each preset is, for the documentation; a name that both tables have is described once.
PRESET_SUMMARIES = {
    "tiny": "a decoder, or an encoder-decoder, for a laptop and for tests",
    "gpt2": "GPT-2, 124 M parameters",
    "llama-like": "Llama's recipe, at a size that one GPU trains",
    "mixtral-like": "Mixtral's recipe, at a size that one GPU trains",
    "bert-base": "BERT-base, with its parameter count, to the unit",
    "bert-large": "BERT-large, likewise",
    "roberta-base": "RoBERTa-base, likewise",
    "modernbert-like": "ModernBERT: local and global layers, GeGLU, two rotary speeds",
    "transformer-base": "the encoder-decoder of 2017: 6 + 6 layers, post-norm, sinusoidal, one scaled embedding",
    "t5-like": "an encoder-decoder with relative positions and RMSNorm",
}


def check_preset(name: object, presets: Collection[str], other_class: str, other_presets: Collection[str]) -> None:
    """Raises a `ValueError` unless `name` is one of `presets`.

    The message names the other class where that has such a preset, else the known names.
    """
    other = str(name).lower()
    if name not in presets and other in other_presets:
        raise ValueError(f"preset={name!r} is one of {other_class}: write {other_class}.from_preset({other!r}).")
    check_choice("preset", name, presets)


def stack_preset(name: str) -> dict[str, Any]:
    """The fields of a `TrineConfig` of that name; raises what `check_preset` raises."""
    check_preset(name, PRESETS, "TrineSeq2SeqConfig", SEQ2SEQ_PRESETS)
    return deepcopy(PRESETS[name])
