"""The losses of rerankers by name, each with the form of data that it reads."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import (
    BinaryCrossEntropyLoss,
    LambdaLoss,
    MultipleNegativesRankingLoss,
)
from torch import nn


Row = tuple[str, ...]  # anchor, positive, negatives


class RerankerLoss(NamedTuple):
    """Makes the loss for a model, and the columns of a data set from rows."""

    make: Callable[[CrossEncoder], nn.Module]
    columns: Callable[[Sequence[Row]], dict[str, list[Any]]]


def as_pairs(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """A text and its label in each row: 1 for a positive, 0 for a negative."""
    texts = [(row[0], text, int(place == 0)) for row in rows for place, text in enumerate(row[1:])]
    return dict(zip(("anchor", "text", "label"), map(list, zip(*texts, strict=True)), strict=True))


def as_lists(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """All texts of an anchor, and their labels, in each row."""
    return {
        "anchor": [row[0] for row in rows],
        "texts": [[*row[1:]] for row in rows],
        "labels": [[1.0, *(0.0 for _ in row[2:])] for row in rows],
    }


def as_tuples(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """A column for each text of a row."""
    names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, len(rows[0]) - 1))]
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


LOSSES = {
    "lambda": RerankerLoss(LambdaLoss, as_lists),
    "binary_cross_entropy": RerankerLoss(BinaryCrossEntropyLoss, as_pairs),
    # Logits as they are: a sigmoid, which is that loss's usual one, would stop the gradients of what is far apart.
    "multiple_negatives_ranking": RerankerLoss(
        lambda model: MultipleNegativesRankingLoss(model, num_negatives=1, scale=1, activation_fn=nn.Identity()),
        as_tuples,
    ),
}
