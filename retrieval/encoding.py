"""Encodes texts in batches of about as many tokens each, which is what a processor does fastest."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


USUAL_BATCH = 32  # of sentence-transformers
TOKENS = 512  # of a batch on a CPU: more do not stay in its caches between two layers
BYTES = 4  # of a token, about


def encode_texts(
    encode: Callable[..., Any],
    texts: Sequence[str],
    batch_size: int | None,
    is_cpu: bool,
    longest: int | None,
    **options: Any,
) -> np.ndarray:
    """The vectors of texts (N, size), in their order.

    Args:
        encode: `encode_document` or `encode_query` of a `SentenceTransformer`, which sorts texts by their length.
        texts: Any number.
        batch_size: Texts at a time. By default 32, and on a CPU fewer of long ones: about 512 tokens.
        is_cpu: Whether the model is on a CPU.
        longest: How many tokens of a text are read; None for all.
        options: For `encode`.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        groups[batch_size or (batch_of(text, longest) if is_cpu else USUAL_BATCH)].append(place)
    if len(groups) < 2:
        size = next(iter(groups), USUAL_BATCH)
        return np.asarray(encode([*texts], batch_size=size, **options), np.float32)
    vectors, places = [], []
    for size, group in groups.items():
        vectors.append(encode([texts[place] for place in group], batch_size=size, **options))
        places += group
    joined = np.concatenate(vectors)
    ordered = np.empty(joined.shape, np.float32)
    ordered[places] = joined
    return ordered


def batch_of(text: str, longest: int | None = None) -> int:
    """The number of texts as long as this one to encode at a time on a CPU: a power of two from 2 to 32."""
    tokens = min(len(text.encode()) / BYTES, longest or TOKENS)
    size = int(TOKENS / max(1, tokens))
    return min(USUAL_BATCH, max(2, 1 << size.bit_length() - 1))
