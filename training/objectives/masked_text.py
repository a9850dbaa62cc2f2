"""Sequences and pairs of segments for masked language modelling, from stored tokens."""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from ...tokenization.text_files import Piece
from ..data.token_store import TokenStore
from .sentence_pairs import sentence_pairs
from .whole_words import WORD_START


# After the signs that end a sentence: in Chinese at once, else before white space. And wherever a line ends.
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\s*\n\s*")


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of a text, in English or Chinese; none is empty."""
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]


def sentence_pieces(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yields the sentences of the pieces, as pieces."""
    return (piece._replace(text=sentence) for piece in pieces for sentence in split_sentences(piece.text))


# Tokens before and after a text, of which the first that there is counts, for the mask and for padding.
NEEDED = (("cls_token", "bos_token"), ("sep_token", "eos_token"), ("mask_token",), ("pad_token",))


def find_id(tokenizer: PreTrainedTokenizerBase, names: Iterable[str]) -> Any:
    """The id of the first of these tokens that a tokenizer has, or None."""
    ids = (getattr(tokenizer, f"{name}_id") for name in names)
    return next((token for token in ids if token is not None), None)


class MaskedText(Dataset):
    """Segments of a token store between special tokens.

    Items are features for `DataCollatorForLanguageModeling`, or for `WholeWordMaskingCollator` with `whole_words`.

    Args:
        store: Tokens of `TokenEncoder`, or of `WordEncoder` with `whole_words`.
        max_length: Tokens of an item, special ones included.
        special: How many of them are special.

    Raises:
        ValueError: The tokenizer lacks a token that is needed, or `max_length` leaves no room for text.
    """

    def __init__(
        self,
        store: TokenStore,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        special: int,
        whole_words: bool = False,
    ):
        tokens = {" or ".join(names): find_id(tokenizer, names) for names in NEEDED}
        if missing := [names for names, token in tokens.items() if token is None]:
            raise ValueError(f"The tokenizer has no {', '.join(missing)}; one of train_wordpiece has them all.")
        if max_length < special + 2:
            raise ValueError(f"max_length={max_length} must be at least {special + 2}, with {special} special tokens.")
        self.room = max_length - special
        self.tokens, self.whole_words = store.tokens, whole_words
        self.before, self.after, *_ = tokens.values()

    def text(self, count: int) -> Tensor:
        """The first tokens of the store, ids (at most `count`,)."""
        return self.tokens[:count] & (WORD_START - 1)

    def features(self, *segments: tuple[int, int]) -> dict[str, list[int]]:
        """One item: the tokens from each start to each stop, with special tokens around them.

        `word_ids` number the words; what is left of a word that was cut off counts to the special token before it.
        """
        tokens, special = [self.before | WORD_START], [1]
        for start, stop in segments:
            tokens += [*self.tokens[start:stop].tolist(), self.after | WORD_START]
            special += [0] * (stop - start) + [1]
        features = {
            "input_ids": [token & (WORD_START - 1) for token in tokens],
            "attention_mask": [1] * len(tokens),
            "special_tokens_mask": special,
        }
        if self.whole_words:
            features["word_ids"] = [number - 1 for number in accumulate(token >= WORD_START for token in tokens)]
        return features


class MaskedSequences(MaskedText):
    """Sequences `[CLS] text [SEP]`; a longer document is cut. Memory: 16 bytes per sequence."""

    def __init__(
        self, store: TokenStore, tokenizer: PreTrainedTokenizerBase, max_length: int, *, whole_words: bool = False
    ):
        super().__init__(store, tokenizer, max_length, special=2, whole_words=whole_words)
        first = torch.cat([store.ends.new_zeros(1), store.ends[:-1]])
        counts = (store.ends - first + self.room - 1) // self.room
        places = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        self.starts = first.repeat_interleave(counts) + places * self.room
        self.stops = torch.minimum(self.starts + self.room, store.ends.repeat_interleave(counts))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.features((int(self.starts[index]), int(self.stops[index])))

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, special ones included."""
        return int((self.stops - self.starts).sum()) + 2 * len(self)


class MaskedPairs(MaskedText):
    """Pairs `[CLS] a [SEP] b [SEP]` of `sentence_pairs`, with segment ids and `next_sentence_label`.

    Memory: 40 bytes per pair.

    Args:
        store: Its pieces are sentences (`sentence_pieces`).
        seed: Of the pairs.

    Raises:
        ValueError: There are too few documents for `sentence_pairs`, besides the errors of `MaskedText`.
    """

    def __init__(
        self,
        store: TokenStore,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        whole_words: bool = False,
        seed: int = 0,
    ):
        super().__init__(store, tokenizer, max_length, special=3, whole_words=whole_words)
        pairs = array("q")
        for first, second, label in sentence_pairs(StoredSentences(store), self.room, seed):
            pairs.extend((first.start, first.stop, second.start, second.stop, label))
        self.pairs = torch.tensor(pairs).view(-1, 5)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, border, second, stop, label = self.pairs[index].tolist()
        return {
            **self.features((start, border), (second, stop)),
            "token_type_ids": [0] * (border - start + 2) + [1] * (stop - second + 1),
            "next_sentence_label": label,
        }

    @property
    def num_tokens(self) -> int:
        """Tokens of all pairs, special ones included."""
        sizes = self.pairs[:, 1] - self.pairs[:, 0] + self.pairs[:, 3] - self.pairs[:, 2]
        return int(sizes.sum()) + 3 * len(self)


class StoredSentences(Sequence):
    """For each document of a store, the ranges of its pieces' tokens; pieces without tokens are left out."""

    def __init__(self, store: TokenStore):
        self.piece_ends = store.piece_ends
        self.stops = torch.searchsorted(store.piece_ends, store.ends, right=True)

    def __len__(self) -> int:
        return len(self.stops)

    def __getitem__(self, index: int) -> list[range]:
        first = int(self.stops[index - 1]) if index else 0
        ends = [int(self.piece_ends[first - 1]) if first else 0, *self.piece_ends[first : self.stops[index]].tolist()]
        return [range(start, stop) for start, stop in zip(ends, ends[1:], strict=False) if start < stop]
