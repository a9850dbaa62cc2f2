"""Combines two rankings of documents, by dense vectors and by words, into one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..configuration.patterns import check_choice


RRF_CONSTANT = 60  # of the paper


@dataclass(frozen=True)
class Ranking:
    """The best documents by one kind of score.

    Args:
        ids: The documents, the best first.
        scores: Their scores (R,).
        floor: The score of any other document, as far as is known: by words 0 where all that have one are listed;
            else the lowest that is listed, above which no other can be.
        depth: How many documents could have been listed.
    """

    ids: Sequence[str] = ()
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    floor: float = 0.0
    depth: int = 0

    def filled(self, places: dict[str, int]) -> np.ndarray:
        """Scores of these documents (C,), the floor for those that are not listed."""
        values = np.full(len(places), self.floor, dtype=np.float64)
        values[[places[id_] for id_ in self.ids]] = self.scores
        return values


class Fused(NamedTuple):
    """A document with its score, which is the sum of its two parts, and the scores in the rankings that list it."""

    id: str
    score: float
    dense: float | None
    lexical: float | None
    dense_part: float
    lexical_part: float


def min_max(ranking: Ranking, places: dict[str, int]) -> np.ndarray:
    """Scores between 0, for the lowest that a document can have, and 1, for the best; all 0 where they are equal."""
    values = ranking.filled(places)
    low, high = min(values.min(), ranking.floor), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def z_score(ranking: Ranking, places: dict[str, int]) -> np.ndarray:
    """Scores less their mean, in standard deviations; all 0 where they are equal."""
    values = ranking.filled(places)
    deviation = values.std() if np.ptp(values) > 0 else 0.0
    return (values - values.mean()) / deviation if deviation > 0 else np.zeros_like(values)


def reciprocal_rank(ranking: Ranking, places: dict[str, int]) -> np.ndarray:
    """1 / (60 + rank) (Cormack et al. 2009); what is not listed ranks behind all that could have been listed."""
    ranks = np.full(len(places), ranking.depth + 1)
    ranks[[places[id_] for id_ in ranking.ids]] = np.arange(1, len(ranking.ids) + 1)
    return 1 / (RRF_CONSTANT + ranks)


FUSIONS: dict[str, Callable[[Ranking, dict[str, int]], np.ndarray]] = {
    "min-max": min_max,
    "z-score": z_score,
    "rrf": reciprocal_rank,
}


def check_fusion(fusion: str, dense_weight: float, lexical_weight: float) -> None:
    """Raises a ValueError for weights that are not usable, or a fusion that is not one of `FUSIONS`."""
    if fusion in ("raw", "none", None):
        raise ValueError(
            f"fusion={fusion!r} would add raw scores. A cosine is at most 1 and BM25 has no limit, so that weights "
            f"would mean nothing and words alone decide. Choose from {[*FUSIONS]}."
        )
    check_choice("fusion", fusion, FUSIONS)
    for name, value in (("dense_weight", dense_weight), ("lexical_weight", lexical_weight)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ValueError(f"{name}={value!r} must be a finite number of at least 0.")
    if dense_weight == lexical_weight == 0:
        raise ValueError("dense_weight=0 and lexical_weight=0 leave nothing to rank by; one must be above 0.")


def fuse(
    dense: Ranking, lexical: Ranking, dense_weight: float, lexical_weight: float, fusion: str, k: int
) -> list[Fused]:
    """The best k documents of both rankings, the best first; of equal ones those that come first by dense vectors.

    A document that one ranking does not list gets the lowest score there, not none. A ranking that is empty has no
    part in it.
    """
    places = {id_: place for place, id_ in enumerate(dict.fromkeys([*dense.ids, *lexical.ids]))}
    if not places:
        return []
    parts, scores = [], []
    for ranking, weight in ((dense, dense_weight), (lexical, lexical_weight)):
        parts.append(weight * FUSIONS[fusion](ranking, places) if len(ranking.ids) else np.zeros(len(places)))
        scores.append(dict(zip(ranking.ids, np.asarray(ranking.scores).tolist(), strict=True)))
    total, ids = parts[0] + parts[1], [*places]
    best = np.argsort(-total, kind="stable")[:k].tolist()
    return [
        Fused(ids[n], float(total[n]), *(each.get(ids[n]) for each in scores), *(float(part[n]) for part in parts))
        for n in best
    ]
