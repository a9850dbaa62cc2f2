"""Measures of a space of texts and images: is the text of an image near it, and is its class?"""

# Shapes: I images, T texts, C classes.

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch


def unit_vectors(encode: Any, batches: Any) -> torch.Tensor:
    """The vectors that a dual encoder makes of batches, one below the other, each of length 1."""
    with torch.no_grad():
        vectors = torch.cat([encode(**batch).pooler_output for batch in batches])
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def ranks(similarities: torch.Tensor, own: Sequence[int]) -> np.ndarray:
    """How many texts are nearer to each image than its own, (I,), from similarities (I, T) and the places of its own.

    Of texts that are as near as its own, half count.

    Raises:
        ValueError: A similarity is no number.
    """
    if not similarities.isfinite().all():
        raise ValueError("similarities hold values that are no finite numbers: the model has diverged.")
    mine = similarities[torch.arange(len(similarities)), torch.as_tensor(own)][:, None]
    nearer, equal = (similarities > mine).sum(1), (similarities == mine).sum(1) - 1
    return (nearer + equal / 2).numpy()


def recall_at(ranks: np.ndarray, count: int) -> np.ndarray:
    """Whether the own text of each image is among the `count` nearest, (I,), as 0 and 1."""
    return (ranks < count).astype(float)


def nearest_classes(images: torch.Tensor, texts: torch.Tensor, classes: Sequence[int], count: int) -> np.ndarray:
    """The class of each image (I,) of C classes: that whose texts have the nearest mean.

    Source: Radford et al. 2021, CLIP, arXiv 2103.00020, section 3.1.4, an ensemble of prompts.

    Args:
        images: Vectors of length 1, (I, size).
        texts: Likewise, (T, size).
        classes: The class of each text, (T,).
        count: C, each with one text at least.
    """
    means = torch.zeros((count, texts.shape[1])).index_add(0, torch.as_tensor([*classes]), texts)
    return (images @ torch.nn.functional.normalize(means, dim=-1).T).argmax(1).numpy()


def nearest_rows(rows: torch.Tensor, blocks: Iterable[torch.Tensor]) -> torch.Tensor:
    """The number of the nearest of many others, by the distance of Euclid, for each row (I, size): (I,).

    Args:
        rows: What is looked for, (I, size).
        blocks: The others, some at a time, (any number, size) each.
    """
    best = torch.full((len(rows),), torch.inf, dtype=rows.dtype)
    found, start = torch.zeros(len(rows), dtype=torch.long), 0
    for block in blocks:
        distances, places = torch.cdist(rows, block).min(1)
        found = torch.where(distances < best, places + start, found)
        best, start = distances.minimum(best), start + len(block)
    return found
