"""Tokenizers that load without code, and texts and records from files."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .byte_level_bpe import train_byte_level_bpe
    from .chat_templates import CHAT_TEMPLATES, ChatTemplate, find_chat_template
    from .hub_data import HubData
    from .loading import load_target_tokenizer, load_tokenizer
    from .record_files import read_records
    from .records import BadRecords, iterate_records, read_examples
    from .special_tokens import language_tag
    from .text_ends import decoder_start, encode_targets, end_ids
    from .text_files import iterate_text_files
    from .token_spelling import spell_tokens
    from .training import TOKENIZERS
    from .unigram import train_unigram
    from .wordpiece import train_wordpiece

__all__ = [
    "CHAT_TEMPLATES",
    "TOKENIZERS",
    "BadRecords",
    "ChatTemplate",
    "HubData",
    "decoder_start",
    "encode_targets",
    "end_ids",
    "find_chat_template",
    "iterate_records",
    "iterate_text_files",
    "language_tag",
    "load_target_tokenizer",
    "load_tokenizer",
    "read_examples",
    "read_records",
    "spell_tokens",
    "train_byte_level_bpe",
    "train_unigram",
    "train_wordpiece",
]

__getattr__, __dir__ = lazy_names(__name__)
