"""Fast tokenising: ids of words that were seen before are looked up."""

import json
import re
from array import array
from collections.abc import Iterator
from itertools import chain
from typing import Any

from transformers import PreTrainedTokenizerBase


# Words begin with the one space that stands before text, or after the one line end between texts. Byte-level
# tokenizers split texts at all of these borders, and at more: their words begin with the last space, and hold no line
# end before text.
BORDER = re.compile(r"(?= \S)|(?<=\S\n)(?=\S)")
# What is longer is rarely seen again (a line of Chinese, a link), and more words than that are begun anew.
LONGEST_WORD, MOST_WORDS = 64, 2**18


class TokenEncoder:
    """Token ids of plain texts, without special tokens, as bytes of 32-bit integers.

    Special tokens that are written out in a text are split like any other text. Byte-level BPE looks up words, which
    is several times as fast; the first texts are tokenised both ways, and if they differ the encoder does without.
    Other tokenizers, whose tokens depend on more than the word, take every text whole.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self.looks_up = self.backend is not None and splits_words(json.loads(self.backend.to_str()))
        self.words: dict[str, bytes] = {}
        self.checked = False

    def __call__(self, texts: list[str]) -> list[bytes]:
        if not self.looks_up:
            return list(self.encode(texts))
        encoded = self.look_up(texts)
        if not self.checked:
            self.checked = True
            whole = list(self.encode(texts))
            if encoded != whole:
                self.looks_up = False
                return whole
        return encoded

    def look_up(self, texts: list[str]) -> list[bytes]:
        """The ids of the texts' words, one after the other."""
        if len(self.words) > MOST_WORDS:
            self.words.clear()
        parts = [BORDER.split(text) for text in texts]
        new = list(set(chain.from_iterable(parts)) - self.words.keys())
        self.words.update(zip(new, self.encode(new), strict=True))
        encoded = [b"".join(map(self.words.__getitem__, words)) for words in parts]
        for word in new:
            if len(word) > LONGEST_WORD:
                del self.words[word]
        return encoded

    def encode(self, texts: list[str]) -> Iterator[bytes]:
        """The ids of each text by the tokenizer itself."""
        if self.backend is None:
            encoded: Any = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
            yield from (array("i", ids).tobytes() for ids in encoded["input_ids"])
            return
        # What transformers does besides costs more than tokenising.
        self.backend.no_truncation()
        self.backend.no_padding()
        before, self.backend.encode_special_tokens = self.backend.encode_special_tokens, True
        try:
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        finally:
            self.backend.encode_special_tokens = before
        yield from (array("i", encoding.ids).tobytes() for encoding in encodings)


def splits_words(state: dict[str, Any]) -> bool:
    """Whether a backend's state is that of byte-level BPE, whose words do not depend on each other."""
    first: Any = state["pre_tokenizer"] or {}
    last = (first.get("pretokenizers") or [first])[-1]
    return (
        state["normalizer"] is None
        and last.get("type") == "ByteLevel"
        and not last["add_prefix_space"]
        and state["model"]["type"] == "BPE"
        and not state["model"]["dropout"]
        and all(token["special"] for token in state["added_tokens"])
    )
