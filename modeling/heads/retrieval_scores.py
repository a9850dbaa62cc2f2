"""Scores of queries and documents by dense, lexical and multiple vectors, and by their weighted sum.

Source: Chen et al. 2024, BGE M3-Embedding, arXiv 2402.03216, section 3.2.
"""

# Shapes: Q queries, P documents, T texts, N tokens of a query, M of a document, H hidden, D multi_vector_dim,
# V vocabulary.

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn


# The weights of the sum in M3's training (appendix).
SCORE_WEIGHTS = {"dense": 1.0, "sparse": 0.3, "multi_vector": 1.0}


def vocabulary_vectors(token_weights: torch.Tensor, input_ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Returns the weight of each token of the vocabulary, (T, V): the largest of those it has in the text, or 0.

    Args:
        token_weights: (T, N), not negative, 0 for tokens that do not count.
        input_ids: (T, N).
        vocab_size: V.
    """
    vectors = token_weights.new_zeros((len(input_ids), vocab_size))
    return vectors.scatter_reduce(1, input_ids, token_weights, "amax")


def multi_vector_scores(
    queries: torch.Tensor, query_mask: torch.Tensor, documents: torch.Tensor, document_mask: torch.Tensor
) -> torch.Tensor:
    """Returns the mean over a query's tokens of the largest product with a token of the document, (Q, P).

    A text without a token that counts has the score 0.

    Args:
        queries: (Q, N, D).
        query_mask: (Q, N), True for tokens that count.
        documents: (P, M, D).
        document_mask: (P, M).
    """
    products = torch.einsum("qnd,pmd->qpnm", queries, documents)
    lowest = torch.finfo(products.dtype).min
    best = products.masked_fill(~document_mask[None, :, None], lowest).amax(dim=-1)  # (Q, P, N)
    counts = query_mask[:, None] & document_mask.any(dim=-1)[None, :, None]
    total = torch.where(counts, best, torch.zeros_like(best)).sum(dim=-1)
    return total / query_mask.sum(dim=-1).clamp(min=1)[:, None]


def weighted_sum(scores: Mapping[str, torch.Tensor], weights: Mapping[str, float] | None = None) -> torch.Tensor:
    """Returns the sum of scores (Q, P), each times its weight.

    Args:
        scores: By `dense`, `sparse` and `multi_vector`, or some of these.
        weights: For the same names; what is missing counts 0. Default: `SCORE_WEIGHTS`.

    Raises:
        ValueError: A weight is for a score that is not there, negative, or not a number; or all are 0.
    """
    given = {name: SCORE_WEIGHTS[name] for name in scores} if weights is None else {**weights}
    for name, weight in given.items():
        if name not in scores:
            raise ValueError(f"weights has {name!r}, but the scores are {[*scores]}.")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weights[{name!r}]={weight} must be a number that is not negative.")
    if not any(given.values()):
        raise ValueError(f"weights={given} leave nothing of the scores {[*scores]}.")
    return torch.stack([scores[name] * weight for name, weight in given.items()]).sum(dim=0)


class RetrievalVectors(NamedTuple):
    """Vectors of T texts, as `TrineForRetrieval.encode` returns them; what was not asked for is None.

    Attributes:
        dense: (T, H), of length 1.
        sparse: For each text, the weights of its tokens by their ids; tokens of weight 0 are left out.
        multi_vector: For each text, (its tokens that count, D), of length 1 each.
        vocab_size: V.
    """

    dense: torch.Tensor | None = None
    sparse: list[dict[int, float]] | None = None
    multi_vector: list[torch.Tensor] | None = None
    vocab_size: int = 0

    def sparse_matrix(self) -> torch.Tensor:
        """Returns the weights of all texts as a sparse tensor, (T, V)."""
        rows = [(row, token, weight) for row, text in enumerate(self.sparse or ()) for token, weight in text.items()]
        places = torch.tensor([(row, token) for row, token, _ in rows], dtype=torch.long).reshape(-1, 2).T
        values = torch.tensor([weight for *_, weight in rows], dtype=torch.float32)
        size = (len(self.sparse or ()), self.vocab_size)
        return torch.sparse_coo_tensor(places, values, size, check_invariants=True).coalesce()

    def dense_scores(self, documents: "RetrievalVectors") -> torch.Tensor:
        """Returns the cosine of each query, which these are, and each document, (Q, P)."""
        self.check("dense", documents)
        return self.dense @ documents.dense.T  # pyright: ignore[reportOptionalMemberAccess, reportOptionalOperand] checked

    def sparse_scores(self, documents: "RetrievalVectors") -> torch.Tensor:
        """Returns the sum over tokens that are in query and document of the product of their weights, (Q, P)."""
        self.check("sparse", documents)
        return torch.sparse.mm(documents.sparse_matrix(), self.sparse_matrix().to_dense().T).T

    def multi_vector_scores(self, documents: "RetrievalVectors", batch_size: int = 64) -> torch.Tensor:
        """Returns the mean over a query's tokens of the largest product with a token of the document, (Q, P).

        Args:
            documents: These.
            batch_size: The number of queries, and of documents, that are compared at once.
        """
        self.check("multi_vector", documents)
        rows = [
            torch.cat([multi_vector_scores(*query, *document) for document in documents.padded(batch_size)], dim=1)
            for query in self.padded(batch_size)
        ]
        return torch.cat(rows)

    def padded(self, batch_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Returns batches of vectors (T, N, D) and the masks (T, N) of those that are there."""
        texts = self.multi_vector or []
        batches = [texts[place : place + batch_size] for place in range(0, len(texts), batch_size)]
        ones = [[text.new_ones(len(text), dtype=torch.bool) for text in batch] for batch in batches]
        pad = nn.utils.rnn.pad_sequence
        return [
            (pad(batch, batch_first=True), pad(mask, batch_first=True))
            for batch, mask in zip(batches, ones, strict=True)
        ]

    def scores(
        self, documents: "RetrievalVectors", weights: Mapping[str, float] | None = None
    ) -> dict[str, torch.Tensor]:
        """Returns the scores (Q, P) of all vectors that both have, by name, and their weighted `sum`.

        Args:
            documents: These.
            weights: As of `weighted_sum`.
        """
        names = [name for name in SCORE_WEIGHTS if getattr(self, name) is not None]
        scores = {name: getattr(self, f"{name}_scores")(documents) for name in names}
        return {**scores, "sum": weighted_sum(scores, weights)}

    def check(self, name: str, documents: "RetrievalVectors") -> None:
        """Raises a `ValueError` unless both have such vectors."""
        for role, vectors in (("queries", self), ("documents", documents)):
            if getattr(vectors, name) is None:
                raise ValueError(f"The {role} have no {name} vectors: ask encode for them by return_{name}=True.")
