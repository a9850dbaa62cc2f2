"""A retriever of LlamaIndex over `HybridSearch`; needs the extra `llama-index`."""

import asyncio
from typing import Any

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from .found_documents import SCORES, Metadata, check_retriever, find
from .hybrid import HybridSearch
from .reranking import RERANK_WEIGHT, Reranker


class HybridRetriever(BaseRetriever):
    """Finds documents for a query engine of LlamaIndex: `retrieve` and `aretrieve` take a query.

    A node has the id and the text of what was found, and the score that it is ranked by; its metadata have what
    `metadata` knows of it, and under `score`, `dense`, `lexical`, `rerank` and `mixed` the scores that it has, which
    no prompt shows.

    Args:
        search: Finds them, in any store.
        k: How many.
        metadata: What is known of documents, by their ids, or a function of an id.
        rerank: Ranks the best again, such as a `CrossEncoder`.
        rerank_candidates: How many of them.
        rerank_weight: Of its score, the search's has the rest of 1.
        options: Of LlamaIndex's `BaseRetriever`.

    Raises:
        TypeError: `search` is no `HybridSearch`.
        ValueError: `k` is no number of at least 1.
    """

    def __init__(
        self,
        search: HybridSearch,
        k: int = 10,
        metadata: Metadata = None,
        rerank: Reranker | None = None,
        rerank_candidates: int = 50,
        rerank_weight: float = RERANK_WEIGHT,
        **options: Any,
    ):
        check_retriever(search, k, rerank_weight)
        self.search, self.k, self.metadata = search, k, metadata
        self.reranking = {"rerank": rerank, "rerank_candidates": rerank_candidates, "rerank_weight": rerank_weight}
        super().__init__(**options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = query_bundle.query_str
        found = find(self.search, query, self.k, self.metadata, **self.reranking)
        hidden = {"excluded_llm_metadata_keys": [*SCORES], "excluded_embed_metadata_keys": [*SCORES]}
        nodes = [TextNode(id_=each.id, text=each.text, metadata=each.metadata, **hidden) for each in found]
        return [NodeWithScore(node=node, score=each.score) for node, each in zip(nodes, found, strict=True)]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
