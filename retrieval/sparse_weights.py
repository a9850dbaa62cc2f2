"""Scores by weights that a model gives to the tokens of a text, in place of BM25."""

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack


class SparseWeights:
    """The weights of N documents for the V tokens of a vocabulary; a score is their product with a query's weights.

    Args:
        rows: Of the documents (N, V).
    """

    def __init__(self, rows: csr_matrix):
        self.rows = rows
        self._columns: Any = None

    @classmethod
    def read(cls, arrays: dict[str, np.ndarray], dimension: int) -> "SparseWeights":
        """From what `arrays` gave."""
        parts = tuple(arrays[name] for name in ("data", "indices", "indptr"))
        return cls(csr_matrix(parts, shape=(len(parts[2]) - 1, dimension)))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """`data` and `indices` of the weights, and `indptr`, where the row of each document begins."""
        return {name: getattr(self.rows, name) for name in ("data", "indices", "indptr")}

    def kept(self, which: Any) -> "SparseWeights":
        """The weights of some of the documents."""
        return SparseWeights(self.rows[which])

    def joined(self, rows: csr_matrix) -> "SparseWeights":
        """These, and further ones."""
        return SparseWeights(csr_matrix(vstack([self.rows, rows], format="csr")))

    def scores(self, query: csr_matrix) -> np.ndarray:
        """The score of every document (N,) for a query (1, V)."""
        if self._columns is None:
            self._columns = self.rows.tocsc()
        data, indices, indptr = self._columns.data, self._columns.indices, self._columns.indptr
        scores = np.zeros(len(self.arrays["indptr"]) - 1, np.float32)
        for token, weight in zip(query.indices, query.data, strict=True):
            column = slice(indptr[token], indptr[token + 1])
            scores[indices[column]] += weight * data[column]
        return scores
