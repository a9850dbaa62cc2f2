"""Loads a tokenizer for a model, with the special tokens and inputs that the model needs."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from .text_ends import name_ends


TARGET_TOKENIZER = "target_tokenizer"  # the folder, in that of a checkpoint, of what an encoder-decoder writes with


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


def load_target_tokenizer(source: str | Path, **options: Any) -> PreTrainedTokenizerBase | None:
    """The second tokenizer of an encoder-decoder that writes with another vocabulary than it reads.

    It lies in the checkpoint's folder `target_tokenizer`, beside that of what is read; None if there is none.
    """
    if Path(source).is_dir() and not (Path(source) / TARGET_TOKENIZER).is_dir():
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, subfolder=TARGET_TOKENIZER, **options)
    except OSError:  # of the Hub, which does not have it
        return None
    name_ends(tokenizer)
    return tokenizer


def check_target_tokenizer(config: Any, target_tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Raises a ValueError where a model writes another vocabulary than it reads, and has no second tokenizer."""
    if target_tokenizer is not None or getattr(config, "share_embeddings", True):
        return
    read, written = config.encoder.vocab_size, config.decoder.vocab_size
    if read != written:
        raise ValueError(
            f"The model reads a vocabulary of {read:,} tokens and writes one of {written:,}: it needs a second "
            f"tokenizer, target_tokenizer, which a checkpoint has in its folder '{TARGET_TOKENIZER}'."
        )


def fit_inputs(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Turns segment ids off for a model without segments; separators alone tell two texts apart."""
    reader = getattr(config, "encoder", config)
    if getattr(reader, "type_vocab_size", None) == 0:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
