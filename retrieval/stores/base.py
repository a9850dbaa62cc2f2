"""The interface of a store of documents, which finds them by vectors and by words."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..fusion import Candidates
from ..words import Words


class Store(ABC):
    """Holds documents with a vector each. `HybridSearch` encodes, checks its input and fuses.

    `encoder` is what `retrieval.encoder_identity.identify` says of the model whose vectors it holds, or None before
    the first; under `sparse` that of a model whose weights of tokens it holds in place of BM25. `words` splits texts
    and queries.
    """

    encoder: dict[str, Any] | None = None
    words: Words = Words()
    usual_depth: int | None = 300  # of `candidates`; None for all documents

    @property
    def lexical(self) -> str:
        """The way in which words are scored: `bm25`, or `sparse` for the weights of a model."""
        return "sparse" if (self.encoder or {}).get("sparse") else "bm25"

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """Ends the connection to a database."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether all vectors are compared with a query's; otherwise some of the nearest may be missed."""

    @abstractmethod
    def set_encoder(self, encoder: Mapping[str, Any]) -> None:
        """Keeps what is known of the model, before the first document."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of documents."""

    @property
    @abstractmethod
    def ids(self) -> list[str]:
        """The ids of all documents."""

    @abstractmethod
    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts of those of these documents that are there, by their ids."""

    @abstractmethod
    def put(self, documents: Mapping[str, str], vectors: np.ndarray, weights: csr_matrix | None = None) -> None:
        """Adds documents, by their ids, and takes the place of those that are there already.

        Args:
            documents: Texts by their ids.
            vectors: One for each document (N, size), float32; normalised if the model compares by cosine.
            weights: Of tokens (N, vocabulary), where `lexical` is `sparse`.
        """

    @abstractmethod
    def remove(self, ids: Sequence[str]) -> None:
        """Removes documents that are there."""

    @abstractmethod
    def candidates(
        self, vectors: np.ndarray | None, queries: Sequence[str] | csr_matrix | None, depth: int
    ) -> list[Candidates]:
        """For each query the documents that are best by its vector or by its words, with both scores of each.

        Args:
            vectors: Of the queries (Q, size); None leaves vectors out.
            queries: Texts of the queries, or weights of tokens (Q, vocabulary) where `lexical` is `sparse`; None
                leaves words out.
            depth: How many documents of each kind.
        """


def count_queries(vectors: np.ndarray | None, queries: Sequence[str] | csr_matrix | None) -> int:
    """The number of queries, of which vectors or words are given."""
    given: Any = queries if vectors is None else vectors
    return given.shape[0] if hasattr(given, "shape") else len(given)
