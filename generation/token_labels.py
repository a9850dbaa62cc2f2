"""Tokens as people read them, one label a token."""

from collections.abc import Sequence

from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerBase


SPACE = "▁"  # as Unigram tokenizers write it
SIGNS = str.maketrans({" ": SPACE, "\n": "⏎", "\t": "⇥", "\r": "␍"})
INCOMPLETE = "\ufffd"  # what the bytes of a part of a character decode to
LONGEST_CHARACTER = 4  # bytes


def token_labels(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token, with signs for white space.

    Byte-level tokens are decoded. Where several make one character, each is that character and its place in it:
    "语 1/2", "语 2/2".
    """
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if isinstance(decoder, ByteLevel):
        return _decode(pieces, decoder)
    return [piece.translate(SIGNS) for piece in pieces]


def _decode(pieces: Sequence[str], decoder: ByteLevel) -> list[str]:
    labels, start = [], 0
    while start < len(pieces):
        texts = [decoder.decode([*pieces[start : start + size]]) for size in range(1, LONGEST_CHARACTER + 1)]
        whole = [size for size, text in enumerate(texts, 1) if INCOMPLETE not in text]
        size = min(whole[0] if whole else 1, len(pieces) - start)
        text = texts[size - 1].translate(SIGNS)
        labels += [text] if size == 1 else [f"{text} {part}/{size}" for part in range(1, size + 1)]
        start += size
    return labels
