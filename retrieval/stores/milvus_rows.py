"""Documents as Milvus keeps them: a number in place of its id, and its words as a sparse vector."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.sparse import csr_matrix


LONGEST, MOST_WORDS = 65_535, 4_096  # bytes of a text, and different words of one, that Milvus keeps
NOTHING = 2**32 - 2  # the token of a text without any, since Milvus keeps no empty sparse vector; no query has it
BITS, LENGTHS = 16, 2**32  # of the length of a text in words, and the token that stands for the first of them
K1, B = 1.5, 0.75  # as of `retrieval.bm25`


def penalty(length: int, mean: float) -> float:
    """The term that BM25 adds to a word's count below the line."""
    return K1 * (1 - B + B * length / mean)


def key_of(id_: str) -> int:
    """The number that Milvus knows a document by; two of a thousand million have the same by a chance of 1 in 20."""
    return int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8], "big") >> 1


def token_of(word: str) -> int:
    """The place of a word in sparse vectors; of 100,000 words about one pair shares one."""
    return min(zlib.crc32(word.encode()), NOTHING - 1)


def as_mapping(row: csr_matrix) -> dict[int, float]:
    """The weights of one text by their tokens."""
    return {int(token): float(weight) for token, weight in zip(row.indices, row.data, strict=True) if weight}


def check_sizes(documents: Mapping[str, str], counts: Sequence[Mapping[int, int]]) -> None:
    """Raises a ValueError for the first document that is too large for Milvus."""
    for (id_, text), count in zip(documents.items(), counts, strict=True):
        for what, value in (("id", id_), ("text", text)):
            if (size := len(value.encode())) > LONGEST:
                raise ValueError(
                    f"documents[{id_[:50]!r}]: the {what} has {size:,} bytes; Milvus keeps up to {LONGEST:,}. "
                    "Cut it into chunks."
                )
        if len(count) > MOST_WORDS:
            raise ValueError(
                f"documents[{id_!r}] has {len(count):,} different words; Milvus keeps up to {MOST_WORDS:,}. "
                "Cut it into chunks."
            )


def saturated(counts: Mapping[int, int], mean: float) -> dict[int, float]:
    """The factors by which BM25 multiplies the rarity of each word, where documents have this mean length."""
    length = sum(counts.values())
    return {token: count / (count + penalty(length, mean)) for token, count in counts.items()}


def as_row(id_: str, text: str, counts: Mapping[int, int], number: int) -> dict[str, Any]:
    """A document without its vectors.

    `words` also holds a token for each bit of the length that is set: counting documents with it gives the length of
    all together, which Milvus cannot sum.
    """
    length = sum(counts.values())
    bits = [LENGTHS + bit for bit in range(BITS) if length >> bit & 1]
    return {"key": key_of(id_), "number": number, "id": id_, "text": text, "length": length, "words": [*counts, *bits]}
