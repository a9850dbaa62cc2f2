"""Scores of retrieval, by embeddings, and by BM25 for comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator


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

    def score(self, model: SentenceTransformer, batch_size: int = 64, truncate_dim: int | None = None) -> float:
        """nDCG@10 of a model's embeddings, from 0 to 1; `truncate_dim` as for `evaluator`."""
        evaluator = self.evaluator(batch_size, truncate_dim)
        return float(evaluator(model)[str(evaluator.primary_metric)])

    def score_bm25(self) -> float:
        """nDCG@10 of BM25 (Lucene's, k1 = 1.5, b = 0.75) over lower-case words of two letters and more.

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
        hits: list[Any] = [
            [{"corpus_id": ids[place], "score": float(score)} for place, score in zip(*row, strict=True) if score > 0]
            for row in zip(found, scores, strict=True)
        ]
        return float(self.evaluator().compute_metrics(hits)["ndcg@k"][DEPTH])
