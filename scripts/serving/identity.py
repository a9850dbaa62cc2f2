"""Tells a served model from all others, also after a restart: by its weights and all that changes its answers."""

import json
from typing import Any

import torch
import transformers

import trine
from trine.retrieval.encoder_identity import hash_weights
from trine.scripts.serving.response_cache import key_of


def identify_decoder(model: Any, tokenizer: Any) -> str:
    """SHA-256 over a decoder's weights, adapters among them, its settings, tokenizer and chat template."""
    adapters = [str(getattr(module, "active_adapters", "")) for module in model.modules() if is_adapter(module)]
    settings = [model.config.to_json_string(), model.generation_config.to_dict(), model.config._attn_implementation]
    return key_of(hash_weights(model), adapters, plain(settings), words_of(tokenizer), versions(model)).hex()


def identify_vectors(model: Any, dtype: str = "auto") -> str:
    """SHA-256 over weights, modules, prompts and tokenizer of a model that computes in `dtype`."""
    config = getattr(getattr(model, "transformers_model", None), "config", None)
    settings = [getattr(config, "to_json_string", str)(), str(model), model.max_seq_length]
    settings += [getattr(model, name, None) for name in ("prompts", "default_prompt_name", "truncate_dim")]
    settings += [str(getattr(model, "activation_fn", "")), dtype]
    return key_of(hash_weights(model), plain(settings), words_of(model.tokenizer), versions(model)).hex()


def is_adapter(module: Any) -> bool:
    """Whether a module is a layer of peft."""
    return hasattr(module, "merged_adapters")


def words_of(tokenizer: Any) -> list[str]:
    """All that decides which tokens a text or a chat has."""
    whole = (
        tokenizer.backend_tokenizer.to_str() if getattr(tokenizer, "is_fast", False) else str(tokenizer.get_vocab())
    )
    return [whole, str(getattr(tokenizer, "chat_template", "")), str(tokenizer)]


def versions(model: Any) -> list[str]:
    """All else that rounds or decides: the programs, the type of numbers, the device."""
    weight = next(model.parameters())
    return [torch.__version__, transformers.__version__, trine.__version__, str(weight.dtype), weight.device.type]


def plain(value: Any) -> str:
    """Any value as text that is the same in each process."""
    return json.dumps(value, sort_keys=True, default=str)
