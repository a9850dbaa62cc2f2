"""Scores of retrieval, by embeddings, and by BM25 for comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import semantic_search


DEPTH = 10  # the documents that are looked at


@dataclass(frozen=True)
class Retrieval:
    """Queries, documents, and the documents that each query should find: texts by their ids."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, set[str]]

    @classmethod
    def from_pairs(cls, pairs: Sequence[tuple[str, ...]]) -> "Retrieval":
        """Makes queries of the anchors, which should find their positives among all positives and negatives.

        Args:
            pairs: Each an anchor, its positive and any number of negatives. Equal texts are one.
        """
        queries = {text: f"q{number}" for number, text in enumerate(dict.fromkeys(pair[0] for pair in pairs))}
        corpus = {text: f"d{number}" for number, text in enumerate(dict.fromkeys(t for p in pairs for t in p[1:]))}
        relevant: dict[str, set[str]] = {}
        for pair in pairs:
            relevant.setdefault(queries[pair[0]], set()).add(corpus[pair[1]])
        return cls({id_: text for text, id_ in queries.items()}, {id_: text for text, id_ in corpus.items()}, relevant)

    def evaluator(self, batch_size: int = 64, truncate_dim: int | None = None) -> InformationRetrievalEvaluator:
        """The evaluator of sentence-transformers; embeddings may be cut off to their first `truncate_dim` numbers."""
        depths = [DEPTH]
        return InformationRetrievalEvaluator(
            self.queries,  # pyright: ignore[reportArgumentType] texts are inputs
            self.corpus,  # pyright: ignore[reportArgumentType]
            self.relevant,
            mrr_at_k=depths,
            ndcg_at_k=depths,
            accuracy_at_k=[1, *depths],
            precision_recall_at_k=depths,
            map_at_k=depths,
            batch_size=batch_size,
            truncate_dim=truncate_dim,
            write_csv=False,
        )

    def score(
        self, model: SentenceTransformer, batch_size: int = 64, truncate_dim: int | None = None
    ) -> dict[str, np.ndarray]:
        """Scores of a model's embeddings as of `measure`; `truncate_dim` as for `evaluator`."""
        options: Any = {"batch_size": batch_size, "truncate_dim": truncate_dim, "convert_to_tensor": True}
        queries: Any = model.encode_query([*self.queries.values()], **options)
        corpus: Any = model.encode_document([*self.corpus.values()], **options)
        found = semantic_search(queries, corpus, top_k=DEPTH, score_function=model.similarity)
        ids = [*self.corpus]
        return self.measure([[ids[int(hit["corpus_id"])] for hit in hits] for hits in found])

    def score_bm25(self) -> dict[str, np.ndarray]:
        """Scores as of `measure` of BM25 (Lucene's, k1 = 1.5, b = 0.75) over lower-case words of two letters and more.

        A document without a word of the query is not found.

        Raises:
            ImportError: bm25s is not installed.
        """
        import bm25s

        def tokenize(texts: dict[str, str]):
            return bm25s.tokenize(list(texts.values()), stopwords=[], show_progress=False)

        ids = list(self.corpus)
        index = bm25s.BM25()
        index.index(tokenize(self.corpus), show_progress=False)
        found, scores = index.retrieve(tokenize(self.queries), k=min(DEPTH, len(ids)), show_progress=False)
        return self.measure(
            [
                [ids[place] for place, score in zip(*row, strict=True) if score > 0]
                for row in zip(found, scores, strict=True)
            ]
        )

    def measure(self, found: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """Two scores of each query (Q,), from 0 to 1.

        `ndcg@10` is the sum of 1 / log2(1 + rank) over the relevant documents among the first ten, divided by the
        largest that it could be; `accuracy@1` is 1 where the first document is relevant.

        Args:
            found: For each query the ids of documents, the best first.
        """
        gains = 1 / np.log2(np.arange(2, DEPTH + 2))
        ndcg, first = [], []
        for query, ids in zip(self.queries, found, strict=True):
            relevant = self.relevant[query]
            hits = np.array([id_ in relevant for id_ in ids[:DEPTH]])
            ndcg.append(gains[: len(hits)] @ hits / gains[: len(relevant)].sum())
            first.append(float(hits[:1].any()))
        return {"ndcg@10": np.array(ndcg), "accuracy@1": np.array(first)}
