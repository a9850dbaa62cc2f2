"""The hits of a search, and their order after a reranker."""

from collections.abc import Sequence
from typing import NamedTuple

from .chunking import Span
from .document_chunks import read_chunk
from .fusion import Fused
from .reranking import Reranker, mix, rank_again


class Hit(NamedTuple):
    """A document that was found.

    Args:
        id: Its id.
        text: Its text.
        score: The sum of the two parts.
        dense_part: What its vector adds: its normalised score times `dense_weight`.
        lexical_part: What its words add.
        dense: Cosine or dot product with the query; None where vectors have no weight.
        lexical: BM25, or the product of weights of tokens; 0 where the text has no word of the query, None where words
            have no weight.
        rerank: The score of the reranker that put it in its place; None without one.
        rerank_part: What that adds to `mixed`: the score, normalised, times `rerank_weight`.
        mixed: The sum of it and of `score`, normalised anew, by the rest of 1; None without a reranker, or where that
            alone decides.
        document: The id of the document of which `text` is a chunk; None where documents are whole.
        span: The first character of the chunk in it, and the one after its last.
    """

    id: str
    text: str
    score: float
    dense_part: float
    lexical_part: float
    dense: float | None
    lexical: float | None
    rerank: float | None = None
    rerank_part: float | None = None
    mixed: float | None = None
    document: str | None = None
    span: Span | None = None

    @property
    def ranked_by(self) -> float:
        """The score of its place: the sum of search and reranker, the reranker's alone, or the search's."""
        scores = (self.mixed, self.rerank, self.score)
        return next(score for score in scores if score is not None)


def as_hit(fused: Fused, text: str, is_chunk: bool) -> Hit:
    """Puts a fused score and its text together."""
    parts = fused.dense_part, fused.lexical_part
    hit = Hit(fused.id, text, fused.score, *parts, dense=fused.dense, lexical=fused.lexical)
    return hit._replace(**read_chunk(fused.id)._asdict()) if is_chunk else hit


def ranked_hits(reranker: Reranker, query: str, hits: Sequence[Hit], weight: float, fusion: str) -> list[Hit]:
    """Hits in the order of a reranker, or of its scores and theirs together, with these."""
    ranked = rank_again(reranker, query, [hit.text for hit in hits])
    mixed = mix(ranked, [hit.score for hit in hits], weight, fusion)
    return [hits[each.place]._replace(rerank=each.score, rerank_part=each.part, mixed=each.total) for each in mixed]
