"""The interface of a store of documents, which finds them by vectors and by words."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..fusion import Candidates
from ..words import Words


class Store(ABC):
    """Holds documents with a vector each. `HybridSearch` encodes, checks its input and fuses.

    `encoder` is what `retrieval.encoder_identity.identify` says of the model whose vectors it holds, or None before
    the first; `words` splits texts and queries.
    """

    encoder: dict[str, Any] | None = None
    words: Words = Words()
    usual_depth: int | None = 300  # of `candidates`; None for all documents

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
    def put(self, documents: Mapping[str, str], vectors: np.ndarray) -> None:
        """Adds documents, by their ids, and takes the place of those that are there already.

        Args:
            documents: Texts by their ids.
            vectors: One for each document (N, size), float32; normalised if the model compares by cosine.
        """

    @abstractmethod
    def remove(self, ids: Sequence[str]) -> None:
        """Removes documents that are there."""

    @abstractmethod
    def candidates(self, vectors: np.ndarray | None, queries: Sequence[str] | None, depth: int) -> list[Candidates]:
        """For each query the documents that are best by its vector or by its words, with both scores of each.

        Args:
            vectors: Of the queries (Q, size); None leaves vectors out.
            queries: Texts of the queries; None leaves words out.
            depth: How many documents of each kind.
        """
