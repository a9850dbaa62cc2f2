"""Documents to the sequences and pairs of segments whose masked tokens an encoder learns to restore."""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .sentence_pairs import sentence_pairs
from .token_store import TokenStore
from .whole_words import word_starts


# After the signs that end a sentence: in Chinese at once, else before white space. And wherever a line ends.
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\s*\n\s*")


class Token(NamedTuple):
    id: int
    starts_word: bool  # always, where words are not looked for


def split_sentences(document: str) -> list[str]:
    """The sentences and lines of a text, in English or Chinese; none is empty."""
    return [sentence for sentence in _SENTENCE_END.split(document) if sentence.strip()]


class MaskedSequences(Dataset):
    """Sequences `[CLS] text [SEP]` of at most `max_length` tokens from a token store; a longer document is cut.

    Items are features for `DataCollatorForLanguageModeling`. Memory: 16 bytes a sequence.

    Raises:
        ValueError: The tokenizer lacks a token that is needed, or `max_length` leaves no room for text.
    """

    def __init__(self, store: TokenStore, tokenizer: PreTrainedTokenizerBase, max_length: int):
        room = check_room(tokenizer, max_length, special=2)
        self.tokens = store.tokens
        self.before: list[Any] = [tokenizer.cls_token_id]
        self.after: list[Any] = [tokenizer.sep_token_id]
        first = torch.cat([store.ends.new_zeros(1), store.ends[:-1]])
        counts = (store.ends - first + room - 1) // room
        places = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        self.starts = first.repeat_interleave(counts) + places * room
        self.stops = torch.minimum(self.starts + room, store.ends.repeat_interleave(counts))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        text = self.tokens[self.starts[index] : self.stops[index]].tolist()
        return {
            "input_ids": [*self.before, *text, *self.after],
            "attention_mask": [1] * (len(text) + 2),
            "special_tokens_mask": [1, *[0] * len(text), 1],
        }

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, special ones included."""
        return int((self.stops - self.starts).sum()) + 2 * len(self)


def whole_word_sequences(
    documents: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    words: str,
    description: str | None = None,
) -> list[dict[str, Any]]:
    """Sequences as those of `MaskedSequences`, in memory, for `WholeWordMaskingCollator`.

    Args:
        words: How `word_starts` finds words.
        description: Of a progress bar, shown if given.

    Raises:
        ValueError: The tokenizer lacks a token that is needed, or `max_length` leaves no room for text.
    """
    room = check_room(tokenizer, max_length, special=2)
    tokens = tokenize([[document] for document in documents], tokenizer, words, description)
    return [
        make_features(tokenizer, [text[start : start + room]], words)
        for (text,) in tokens
        for start in range(0, len(text), room)
    ]


def masked_pairs(
    documents: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    seed: int = 0,
    words: str | None = None,
    description: str | None = None,
) -> list[dict[str, Any]]:
    """Pairs `[CLS] a [SEP] b [SEP]` of `sentence_pairs`, with segment ids and `next_sentence_label`.

    Args:
        words: How `word_starts` finds words, to mask them whole; None to mask single tokens.
        description: Of a progress bar, shown if given.

    Returns:
        Features for `DataCollatorForLanguageModeling`, or with `words` for `WholeWordMaskingCollator`.

    Raises:
        ValueError: The tokenizer lacks a token that is needed, `max_length` leaves no room for text, or there are too
            few documents for `sentence_pairs`.
    """
    room = check_room(tokenizer, max_length, special=3)
    tokens = tokenize([split_sentences(document) for document in documents], tokenizer, words, description)
    return [
        {
            **make_features(tokenizer, [first, second], words),
            "token_type_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
            "next_sentence_label": label,
        }
        for first, second, label in sentence_pairs(tokens, room, seed)
    ]


def check_room(tokenizer: PreTrainedTokenizerBase, max_length: int, special: int) -> int:
    """The tokens of text that fit beside `special` special ones."""
    missing = [name for name in ("cls_token", "sep_token", "mask_token", "pad_token") if not getattr(tokenizer, name)]
    if missing:
        raise ValueError(f"The tokenizer has no {', '.join(missing)}; one of train_wordpiece has them all.")
    if max_length < special + 2:
        raise ValueError(f"max_length={max_length} must be at least {special + 2}, with {special} special tokens.")
    return max_length - special


def tokenize(
    documents: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    words: str | None,
    description: str | None,
) -> list[list[list[Token]]]:
    """The tokens of each part of each document."""

    def parts_of(document: Sequence[str]) -> list[list[Token]]:
        if not document:
            return []
        encoded = tokenizer(list(document), add_special_tokens=False, split_special_tokens=True, verbose=False)
        parts = []
        for text, encoding in zip(document, encoded.encodings or [], strict=True):
            starts = word_starts(encoding, text, words) if words else [True] * len(encoding.ids)
            parts.append([Token(*token) for token in zip(encoding.ids, starts, strict=True)])
        return parts

    progress = tqdm(documents, desc=description, unit="document", disable=description is None)
    return [parts_of(document) for document in progress]


def make_features(
    tokenizer: PreTrainedTokenizerBase, segments: Sequence[Sequence[Token]], words: str | None
) -> dict[str, Any]:
    """One example: the segments with special tokens around them."""
    separator: Any = tokenizer.sep_token_id
    tokens, special = [Token(tokenizer.cls_token_id, True)], [1]  # pyright: ignore[reportArgumentType] one token
    for segment in segments:
        tokens += [*segment, Token(separator, True)]
        special += [0] * len(segment) + [1]
    features: dict[str, Any] = {
        "input_ids": [token.id for token in tokens],
        "attention_mask": [1] * len(tokens),
        "special_tokens_mask": special,
    }
    if words:
        features["word_ids"] = [number - 1 for number in accumulate(token.starts_word for token in tokens)]
    return features
