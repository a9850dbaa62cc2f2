"""Training tokenizers, each loaded anywhere by `AutoTokenizer` without code."""

from collections.abc import Callable

from transformers import TokenizersBackend

from .byte_level_bpe import train_byte_level_bpe
from .unigram import train_unigram
from .wordpiece import train_wordpiece


TOKENIZERS: dict[str, Callable[..., TokenizersBackend]] = {
    "byte-level-bpe": train_byte_level_bpe,
    "wordpiece": train_wordpiece,
    "unigram": train_unigram,
}

__all__ = ["TOKENIZERS", "train_byte_level_bpe", "train_unigram", "train_wordpiece"]
