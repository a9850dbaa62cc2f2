"""Whole word masking: finds the tokens of each word, and masks them together."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from ...modeling.checks.ids import IGNORE_INDEX


# Added to a stored token that begins a word.
WORD_START = 1 << 30


class WordEncoder:
    """Token ids of plain texts, as bytes of 32-bit integers; those that begin a word have `WORD_START` added.

    Special tokens that are written out in a text are split like any other text.

    Args:
        words: How `word_starts` finds words.

    Raises:
        ValueError: There is no such way, or the tokenizer does not tell places in the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: str):
        if words not in WORDS:
            raise ValueError(f"words={words!r} is not among {list(WORDS)}.")
        if not tokenizer.is_fast:
            raise ValueError(f"words={words!r} needs a fast tokenizer; this is a {type(tokenizer).__name__}.")
        self.tokenizer, self.words = tokenizer, words

    def __call__(self, texts: list[str]) -> list[bytes]:
        encoded = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return [self.flagged(*item) for item in zip(encoded.encodings or [], texts, strict=True)]

    def flagged(self, encoding: Encoding, text: str) -> bytes:
        """The ids of a text as bytes, with `WORD_START` added to those that begin a word."""
        tokens = zip(encoding.ids, word_starts(encoding, text, self.words), strict=True)
        return array("i", (token + starts * WORD_START for token, starts in tokens)).tobytes()


def word_starts(encoding: Encoding, text: str, words: str = "tokenizer") -> list[bool]:
    """Finds for each token of `encoding` whether it begins a word of `text`, which was encoded without special tokens.

    Args:
        words: A name of `WORDS`. `tokenizer`: the words that the tokenizer splits a text into before it cuts them to
            pieces; a WordPiece tokenizer takes each Chinese character as one. `jieba`: the words that jieba finds,
            which has a dictionary of Chinese; other text is split at white space and punctuation.

    Raises:
        ValueError: There is no such name.
        ImportError: jieba is chosen but not installed.
    """
    if words not in WORDS:
        raise ValueError(f"words={words!r} is not among {list(WORDS)}.")
    numbers = list(WORDS[words](encoding, text))
    return [number is None or index == 0 or number != numbers[index - 1] for index, number in enumerate(numbers)]


def _by_tokenizer(encoding: Encoding, text: str) -> Iterable[int | None]:
    return encoding.word_ids


def _by_jieba(encoding: Encoding, text: str) -> Iterator[int]:
    try:
        import jieba
    except ImportError as error:
        raise ImportError("words='jieba' needs the package jieba: pip install 'trine[chinese]'.") from error
    owners = [number for number, word in enumerate(jieba.cut(text)) for _ in word]
    for start, _ in encoding.offsets:
        yield owners[min(start, len(owners) - 1)]


WORDS: dict[str, Callable[[Encoding, str], Iterable[int | None]]] = {"tokenizer": _by_tokenizer, "jieba": _by_jieba}


@dataclass
class WholeWordMaskingCollator:
    """Pads, and hides words: each with the same probability, and all tokens of a word or none.

    Transformers' `DataCollatorForLanguageModeling(whole_word_mask=True)` takes sequences of one length only and never
    replaces a token by a random one. Source: Cui et al. 2019, Pre-training with whole word masking for Chinese BERT,
    arXiv 1906.08101.

    Args:
        mlm_probability: Share of the words that are hidden.
        mask_replace_prob, random_replace_prob: Share of the hidden tokens that become the mask token, or a random one;
            the others stay as they are.

    Raises:
        ValueError: The tokenizer has no mask token, or a probability is not one.
    """

    tokenizer: PreTrainedTokenizerBase
    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1

    def __post_init__(self):
        if self.tokenizer.mask_token_id is None:
            raise ValueError("The tokenizer has no mask_token.")
        for name in ("mlm_probability", "mask_replace_prob", "random_replace_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie between 0 and 1.")
        if self.mask_replace_prob + self.random_replace_prob > 1:
            raise ValueError(
                f"mask_replace_prob={self.mask_replace_prob} and random_replace_prob={self.random_replace_prob} "
                "together are above 1."
            )

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collates features that have `word_ids`, the number of each token's word in its sequence.

        Without `special_tokens_mask` the tokenizer tells which tokens are special; they are never hidden.
        """
        plain = [{name: value for name, value in row.items() if name != "word_ids"} for row in features]
        batch = dict(self.tokenizer.pad(plain, return_tensors="pt"))
        ids, real = batch["input_ids"], batch["attention_mask"].bool()
        words = torch.zeros_like(ids)
        words[real] = torch.tensor([word for row in features for word in row["word_ids"]])
        if "special_tokens_mask" in batch:
            special = batch.pop("special_tokens_mask").bool()
        else:
            special = torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids))
        # One random number a word, read by each of its tokens.
        hidden = (torch.rand(ids.shape).gather(1, words) < self.mlm_probability) & real & ~special
        batch["labels"] = ids.masked_fill(~hidden, IGNORE_INDEX)
        choice = torch.rand(ids.shape)
        replaced = hidden & (choice < self.mask_replace_prob)
        random = hidden & ~replaced & (choice < self.mask_replace_prob + self.random_replace_prob)
        mask_token: Any = self.tokenizer.mask_token_id
        ids = ids.masked_fill(replaced, mask_token)
        batch["input_ids"] = torch.where(random, torch.randint(len(self.tokenizer), ids.shape), ids)
        return batch
