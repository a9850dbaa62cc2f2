"""Pairs of text for next-sentence prediction."""

import random
from collections.abc import Iterator, Sequence


def sentence_pairs(
    documents: Sequence[Sequence[range]], max_tokens: int, seed: int = 0
) -> Iterator[tuple[range, range, int]]:
    """Yields pairs of segments, as ranges of tokens, and whether the second is from elsewhere.

    A document is walked sentence by sentence; as many as fit are cut at a random border into two segments. In half of
    the pairs, the second comes from a random place of another document instead, and the walk goes on after the first.
    A pair is shortened token by token, at either end of its longer segment, until it fits.
    Source: Devlin et al. 2018, BERT, arXiv 1810.04805, section 3.1 and appendix A.2.

    Args:
        documents: For each document its sentences, as ranges of tokens without special ones, none empty, each
            beginning where the one before it ends. Read one at a time. Documents with fewer than two sentences serve
            as a source of random segments only.
        max_tokens: Tokens of both segments together.
        seed: Of the random choices.

    Yields:
        First segment, second segment, and 0 if the second follows the first in its document, 1 if not.

    Raises:
        ValueError: If there are fewer than two documents, or `max_tokens` is below 2.
    """
    filled = [index for index, document in enumerate(documents) if document]
    if len(filled) < 2:
        raise ValueError(f"documents has {len(filled)} with text; random segments need at least 2.")
    if max_tokens < 2:
        raise ValueError(f"max_tokens={max_tokens} must be at least 2, one token for each segment.")
    chooser = random.Random(seed)
    for place, index in enumerate(filled):
        document, start = documents[index], 0
        while start + 1 < len(document):
            end, count = start, 0
            while end < len(document) and (count < max_tokens or end - start < 2):
                count += len(document[end])
                end += 1
            border = chooser.randrange(start + 1, end)
            first = range(document[start].start, document[border].start)
            if chooser.random() < 0.5:
                other = chooser.randrange(len(filled) - 1)
                second = random_segment(documents[filled[other + (other >= place)]], max_tokens, chooser)
                is_random, start = 1, border
            else:
                second, is_random = range(first.stop, document[end - 1].stop), 0
                start = end
            yield *shorten(first, second, max_tokens, chooser), is_random


def random_segment(document: Sequence[range], max_tokens: int, chooser: random.Random) -> range:
    """Tokens of a document from a random sentence on."""
    start = document[chooser.randrange(len(document))].start
    return range(start, document[-1].stop)[:max_tokens]


def shorten(first: range, second: range, max_tokens: int, chooser: random.Random) -> tuple[range, range]:
    """Takes tokens from either end of the longer segment until both fit."""
    while len(first) + len(second) > max_tokens:
        cut = slice(1, None) if chooser.random() < 0.5 else slice(None, -1)
        if len(first) > len(second):
            first = first[cut]
        else:
            second = second[cut]
    return first, second
