"""Loads a tokenizer for a model, with the special tokens and inputs that the model needs."""

from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from .text_ends import name_ends


def load_tokenizer(source: str, *, writes: bool = True, **options: Any) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a folder or the Hub; for a model that writes, names missing tokens by `name_ends`.

    A line is printed for each token that takes the place of another.

    Raises:
        ValueError: The model writes, and nothing ends a text.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if not writes:
        return tokenizer
    try:
        named = name_ends(tokenizer)
    except ValueError as error:
        raise ValueError(f"'{source}': {error}") from error
    for name, token in named.items():
        print(f"The tokenizer '{source}' has no {name}: {token!r} takes its place.")
    return tokenizer


def fit_inputs(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Turns segment ids off for a model without segments; separators alone tell two texts apart."""
    reader = getattr(config, "encoder", config)
    if getattr(reader, "type_vocab_size", None) == 0:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
