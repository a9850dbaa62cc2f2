"""A retriever of LangChain over `HybridSearch`; needs the extra `langchain`."""

from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, model_validator

from .found_documents import Metadata, check_retriever, find
from .hybrid import HybridSearch
from .reranking import RERANK_WEIGHT


class HybridRetriever(BaseRetriever):
    """Finds documents for a chain of LangChain: `invoke`, `batch`, `ainvoke` and `abatch` take a query.

    A `Document` has the id and the text of what was found; its metadata have what `document_metadata` knows of it, and
    under `score`, `dense`, `lexical`, `rerank` and `mixed` the scores that it has.

    Args:
        search: Finds them, in any store.
        k: How many.
        document_metadata: What is known of documents, by their ids, or a function of an id.
        rerank: Ranks the best again, such as a `CrossEncoder`.
        rerank_candidates: How many of them.
        rerank_weight: Of its score, the search's has the rest of 1.

    Raises:
        ValueError: `k` is no number of at least 1, `search` no `HybridSearch`, or an argument is unknown.
    """

    model_config = ConfigDict(extra="forbid")

    search: HybridSearch
    k: int = 10
    document_metadata: Any = None
    rerank: Any = None
    rerank_candidates: int = 50
    rerank_weight: float = RERANK_WEIGHT

    @model_validator(mode="after")
    def _check(self) -> "HybridRetriever":
        check_retriever(self.search, self.k, self.rerank_weight)
        return self

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        metadata: Metadata = self.document_metadata
        options = {name: getattr(self, name) for name in ("rerank", "rerank_candidates", "rerank_weight")}
        found = find(self.search, query, self.k, metadata, **options)
        return [Document(id=each.id, page_content=each.text, metadata=each.metadata) for each in found]
