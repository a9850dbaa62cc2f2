"""Pairs of text for next-sentence prediction."""

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar


T = TypeVar("T")


def sentence_pairs(
    documents: Sequence[Sequence[Sequence[T]]], max_tokens: int, seed: int = 0
) -> Iterator[tuple[list[T], list[T], int]]:
    """Yields pairs of segments of token ids, and whether the second is from elsewhere.

    A document is walked sentence by sentence; as many as fit are cut at a random border into two segments. In half of
    the pairs, the second comes from a random place of another document instead, and the walk goes on after the first.
    A pair is shortened token by token, at either end of its longer segment, until it fits.
    Source: Devlin et al. 2018, BERT, arXiv 1810.04805, section 3.1 and appendix A.2.

    Args:
        documents: For each document its sentences, as token ids (or what else stands for a token) without special
            tokens. Documents with fewer than two sentences serve as a source of random segments only.
        max_tokens: Tokens of both segments together.
        seed: Of the random choices.

    Yields:
        First segment, second segment, and 0 if the second follows the first in its document, 1 if not.

    Raises:
        ValueError: If there are fewer than two documents, or `max_tokens` is below 2.
    """
    documents = [[list(sentence) for sentence in document if sentence] for document in documents]
    documents = [document for document in documents if document]
    if len(documents) < 2:
        raise ValueError(f"documents has {len(documents)} with text; random segments need at least 2.")
    if max_tokens < 2:
        raise ValueError(f"max_tokens={max_tokens} must be at least 2, one token for each segment.")
    chooser = random.Random(seed)
    for index, document in enumerate(documents):
        start = 0
        while start + 1 < len(document):
            end, count = start, 0
            while end < len(document) and (count < max_tokens or end - start < 2):
                count += len(document[end])
                end += 1
            border = chooser.randrange(start + 1, end)
            first = [token for sentence in document[start:border] for token in sentence]
            if chooser.random() < 0.5:
                second, is_random, start = random_segment(documents, index, max_tokens, chooser), 1, border
            else:
                second, is_random = [token for sentence in document[border:end] for token in sentence], 0
                start = end
            yield *shorten(first, second, max_tokens, chooser), is_random


def random_segment(documents: list[list[list[T]]], excluded: int, max_tokens: int, chooser: random.Random) -> list[T]:
    """Tokens from a random sentence on, of a document other than the excluded one."""
    index = chooser.randrange(len(documents) - 1)
    document = documents[index + (index >= excluded)]
    start = chooser.randrange(len(document))
    return [token for sentence in document[start:] for token in sentence][:max_tokens]


def shorten(first: list[T], second: list[T], max_tokens: int, chooser: random.Random) -> tuple[list[T], list[T]]:
    """Takes tokens from either end of the longer segment until both fit."""
    first, second = list(first), list(second)
    while len(first) + len(second) > max_tokens:
        longer = first if len(first) > len(second) else second
        longer.pop(0 if chooser.random() < 0.5 else -1)
    return first, second
