"""Readable labels of tokens."""

import json
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from .token_spelling import byte_spelling


SPACE = "▁"  # as Unigram tokenizers write it
SIGNS = str.maketrans({" ": SPACE, "\n": "⏎", "\t": "⇥", "\r": "␍"})
INCOMPLETE = "\ufffd"  # what the bytes of a part of a character decode to
LONGEST_CHARACTER = 4  # bytes


def token_labels(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token, with signs for white space.

    Tokens that stand for bytes, of byte-level and of Unigram tokenizers, are decoded. Where several make one
    character, each is that character and its place in it: "语 1/2", "语 2/2".
    """
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spell = None if backend is None else byte_spelling(json.loads(backend.to_str())["decoder"])
    special = {*tokenizer.all_special_tokens, *(str(token) for token in tokenizer.added_tokens_decoder.values())}
    spelled = [None if spell is None or piece in special else spell(piece) for piece in pieces]
    labels, start = [], 0
    while start < len(pieces):
        size, text = _next_label(pieces[start], spelled[start : start + LONGEST_CHARACTER])
        text = text.translate(SIGNS)
        labels += [text] if size == 1 else [f"{text} {part}/{size}" for part in range(1, size + 1)]
        start += size
    return labels


def _next_label(piece: str, spelled: Sequence[bytes | None]) -> tuple[int, str]:
    """Number of next tokens that make one label, and its text; bytes that are no text stay alone."""
    if spelled[0] is None:
        return 1, piece
    joined = b""
    for size, part in enumerate(spelled, 1):
        if part is None:
            break
        joined += part
        text = joined.decode("utf-8", errors="replace")
        if INCOMPLETE not in text:
            return size, text
    return 1, spelled[0].decode("utf-8", errors="replace")
