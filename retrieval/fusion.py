"""Adds the scores of documents by dense vectors and by words, made comparable."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..configuration.patterns import check_choice


RRF_CONSTANT = 60  # of the paper


@dataclass(frozen=True)
class Candidates:
    """The documents that can be found for a query, each with its score by vector and by words.

    Args:
        ids: The documents.
        dense: Dot products with the query (C,); None where vectors do not count.
        lexical: Scores of words (C,), 0 where none is found; None where words do not count.
        depth: How many of the best documents of each kind are among them for sure.
    """

    ids: Sequence[str]
    dense: np.ndarray | None
    lexical: np.ndarray | None
    depth: int


class Fused(NamedTuple):
    """A document with its score, which is the sum of its two parts, and the scores that these are made of."""

    id: str
    score: float
    dense: float | None
    lexical: float | None
    dense_part: float
    lexical_part: float


def min_max(scores: np.ndarray, low: float, depth: int) -> np.ndarray:
    """Scores between 0, for the lowest, and 1, for the best; all 0 where they are equal."""
    high = scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def z_score(scores: np.ndarray, low: float, depth: int) -> np.ndarray:
    """Scores less their mean, in standard deviations; all 0 where they are equal."""
    deviation = scores.std() if np.ptp(scores) > 0 else 0.0
    return (scores - scores.mean()) / deviation if deviation > 0 else np.zeros_like(scores)


def reciprocal_rank(scores: np.ndarray, low: float, depth: int) -> np.ndarray:
    """1 / (60 + rank) (Cormack et al. 2009); behind the first `depth`, and for the lowest score, rank is depth + 1."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return 1 / (RRF_CONSTANT + np.where((ranks > depth) | (scores <= low), depth + 1, ranks))


# Each takes the scores of all candidates (C,), the lowest that is possible, and `depth` of `Candidates`.
FUSIONS: dict[str, Callable[[np.ndarray, float, int], np.ndarray]] = {
    "min-max": min_max,
    "z-score": z_score,
    "rrf": reciprocal_rank,
}


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest scores, the largest first, of equal ones the first."""
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, -count)[-count]
    places = np.flatnonzero(scores >= least)
    return places[np.argsort(-scores[places], kind="stable")][:count]


def check_fusion(fusion: str, dense_weight: float, lexical_weight: float) -> None:
    """Raises a ValueError for weights that are not usable, or a fusion that is not one of `FUSIONS`."""
    if fusion in ("raw", "none", None):
        raise ValueError(
            f"fusion={fusion!r} would add raw scores, of which BM25 has no limit. Choose from {[*FUSIONS]}. At 0.7 "
            "and 0.3, with a trained model, nDCG@10 on 2,735 package descriptions is 0.840; vectors alone have "
            "0.865 and min-max has 0.887."
        )
    check_choice("fusion", fusion, FUSIONS)
    for name, value in (("dense_weight", dense_weight), ("lexical_weight", lexical_weight)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ValueError(f"{name}={value!r} must be a finite number of at least 0.")
    if dense_weight == lexical_weight == 0:
        raise ValueError("dense_weight=0 and lexical_weight=0 leave nothing to rank by; one must be above 0.")


def fuse(candidates: Candidates, dense_weight: float, lexical_weight: float, fusion: str, k: int) -> list[Fused]:
    """The best k documents, the best first; equal ones in the order that they have.

    Scores that are all equal add nothing, such as those of a query without a known word.
    """
    if not len(candidates.ids):
        return []
    nothing = np.zeros(len(candidates.ids))
    parts = [nothing, nothing]
    for number, (scores, weight) in enumerate(
        ((candidates.dense, dense_weight), (candidates.lexical, lexical_weight))
    ):
        if scores is not None and np.ptp(scores) > 0:
            low = 0.0 if number else float(scores.min())  # no word of the query at all
            parts[number] = weight * FUSIONS[fusion](scores.astype(np.float64), low, candidates.depth)
    places: list[int] = best(parts[0] + parts[1], k).tolist()
    return [
        Fused(
            id=candidates.ids[place],
            score=float(parts[0][place] + parts[1][place]),
            dense=None if candidates.dense is None else float(candidates.dense[place]),
            lexical=None if candidates.lexical is None else float(candidates.lexical[place]),
            dense_part=float(parts[0][place]),
            lexical_part=float(parts[1][place]),
        )
        for place in places
    ]
