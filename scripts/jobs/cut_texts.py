"""Encodes texts up to a length, and reports in one line how many were cut off."""

from collections.abc import Sequence
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase


def encode_cut(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Any],
    seconds: Sequence[Any] | None = None,
    *,
    max_length: int,
    **options: Any,
) -> tuple[BatchEncoding, set[int]]:
    """The encodings of texts, or of pairs, each of at most `max_length` tokens, and the places of those cut off.

    A text of exactly that length is encoded again without a limit to see whether it was cut off.
    """
    encode: Any = tokenizer  # its annotations know one of the many kinds of texts
    inputs = encode(list(texts), seconds, truncation=True, max_length=max_length, **options)
    rows = inputs["input_ids"]
    long = [place for place, row in enumerate(rows) if len(row) >= max_length]
    if not long:
        return inputs, set()
    parts = [side and [side[place] for place in long] for side in (texts, seconds)]
    whole = encode(*parts, verbose=False, **options)["input_ids"]
    return inputs, {place for place, row in zip(long, whole, strict=True) if len(row) > len(rows[place])}


def say_cut(cut: int, read: int, what: str, max_length: int) -> None:
    """Prints how many of the `read` records were cut off, if any was."""
    if cut:
        print(f"{cut:,} of {read:,} {what} are cut off after max_length={max_length} tokens.")


def count_cut_rows(
    tokenizer: PreTrainedTokenizerBase, *groups: Sequence[Sequence[str]], max_length: int, what: str = "pairs"
) -> int:
    """Counts, and prints, the rows of texts of which one is cut off; those of a group have as many texts each."""
    cut = 0
    for rows in groups:
        columns = [encode_cut(tokenizer, texts, max_length=max_length)[1] for texts in zip(*rows, strict=True)]
        cut += len(set().union(*columns))
    say_cut(cut, sum(map(len, groups)), what, max_length)
    return cut
