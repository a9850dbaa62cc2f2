"""The bytes that each token of a tokenizer stands for, independent of its neighbours."""

import json
import re
from collections.abc import Callable, Iterable, Iterator

from transformers import PreTrainedTokenizerBase


_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def spell_tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[bytes]:
    """Lists the bytes of every id below `vocab_size`; none for special tokens, and for ids beyond the tokenizer's.

    Byte-level tokens are their bytes; pieces of Unigram and of BPE with byte fallback are characters, with "▁" for a
    space, or one byte. Parts of words (WordPiece) are spelled without their mark, and write no space: what a tokenizer
    of this kind puts between words when it decodes depends on the words.

    Raises:
        ValueError: The tokenizer has tokens beyond `vocab_size`, or decodes in another way.
    """
    if vocab_size < len(tokenizer):
        raise ValueError(f"vocab_size={vocab_size} is less than the {len(tokenizer)} tokens of the tokenizer.")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = list(_parts(json.loads(backend.to_str())["decoder"])) if backend is not None else []
    kinds = [part["type"] for part in parts]
    known = [kind for kind in SPELLINGS if kind in kinds]
    if not known:
        raise ValueError(f"The tokenizer decodes by {kinds}; spelling its tokens needs one of {list(SPELLINGS)}.")
    part = parts[kinds.index(known[0])]
    silent = {*tokenizer.all_special_ids}
    added = {id: token for id, token in tokenizer.added_tokens_decoder.items()}  # noqa: C416 a copy of ours
    silent |= {id for id, token in added.items() if token.special}
    spelled = [b""] * vocab_size
    for token, id in tokenizer.get_vocab().items():
        if id not in silent:
            spelled[id] = token.encode() if id in added else SPELLINGS[known[0]](token, part)
    return spelled


def byte_spelling(decoder: dict | None) -> Callable[[str], bytes | None] | None:
    """A function from a token to its bytes, or to None for a token that is text; None if no token stands for bytes.

    A token of byte-level BPE always stands for bytes. One of byte fallback does where it is a single byte.
    """
    kinds = {part["type"] for part in _parts(decoder)}
    if "ByteLevel" in kinds:
        return lambda token: _byte_level(token, {}) if all(sign in _BYTES_OF_SIGNS for sign in token) else None
    if "ByteFallback" in kinds:
        return lambda token: _byte_fallback(token, {}) if _BYTE_PIECE.fullmatch(token) else None
    return None


def writes_spaces(spelled: Iterable[bytes]) -> bool:
    """Whether some token writes a space."""
    return any(b" " in token for token in spelled)


def _parts(decoder: dict | None) -> Iterator[dict]:
    """A decoder, or those that it runs one after the other."""
    if decoder is not None:
        yield from decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def _byte_level(token: str, part: dict) -> bytes:
    return bytes(_BYTES_OF_SIGNS[sign] for sign in token)


def _byte_fallback(token: str, part: dict) -> bytes:
    byte = _BYTE_PIECE.fullmatch(token)
    # The sign that stands for a space is itself written by U+FDD0 in Trine's tokenizers; no other text has that.
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").replace("\ufdd0", "▁").encode()


def _word_piece(token: str, part: dict) -> bytes:
    return token.removeprefix(part["prefix"]).encode()


def _bytes_of_signs() -> dict[str, int]:
    """The byte for which each sign of byte-level BPE stands: printable bytes for themselves, the others in order.

    Source: Radford et al. 2019 (GPT-2), the released code's `bytes_to_unicode`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES_OF_SIGNS = _bytes_of_signs()
SPELLINGS = {"ByteLevel": _byte_level, "ByteFallback": _byte_fallback, "WordPiece": _word_piece}
