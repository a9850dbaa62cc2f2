"""BM25 over texts, by bm25s."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .words import Words


class BM25:
    """The BM25 scores (Lucene's, k1 = 1.5, b = 0.75) of N documents for every word that occurs in them.

    bm25s computes them when the index is made, since they depend on all documents; a query only adds them up. A
    changed collection needs a new index.

    Args:
        vocabulary: The words.
        arrays: A sparse matrix (N, words) by columns: `data` and `indices` of its values, and `indptr`, where the
            column of each word begins.
        size: N.
    """

    def __init__(self, vocabulary: Sequence[str], arrays: Mapping[str, np.ndarray], size: int):
        self.places = {word: place for place, word in enumerate(vocabulary)}
        self.arrays = {name: arrays[name] for name in ("data", "indices", "indptr")}
        self.size = size

    @classmethod
    def of(cls, texts: Iterable[str], words: Words) -> "BM25":
        """Counts the words of texts.

        Raises:
            ImportError: bm25s is not installed.
        """
        try:
            import bm25s
        except ImportError as error:
            raise ImportError("BM25 needs the package bm25s: pip install 'trine[retrieval]'.") from error
        places: dict[str, int] = {}
        documents = [[places.setdefault(word, len(places)) for word in words(text)] for text in texts]
        if not places:
            empty = {
                "data": np.zeros(0, np.float32),
                "indices": np.zeros(0, np.int32),
                "indptr": np.zeros(1, np.int32),
            }
            return cls([], empty, len(documents))
        index = bm25s.BM25()
        index.index((documents, places), create_empty_token=False, show_progress=False)
        arrays = {name: np.ascontiguousarray(index.scores[name]) for name in ("data", "indices", "indptr")}
        return cls([*places], arrays, len(documents))

    @property
    def vocabulary(self) -> list[str]:
        """The words, in the order of the columns."""
        return [*self.places]

    def scores(self, words: Iterable[str]) -> np.ndarray:
        """The score of every document (N,): the sum over the words of a query, one that stands twice counts twice."""
        data, indices, indptr = self.arrays.values()
        scores = np.zeros(self.size, np.float32)
        for place in (self.places[word] for word in words if word in self.places):
            column = slice(indptr[place], indptr[place + 1])
            scores[indices[column]] += data[column]
        return scores
