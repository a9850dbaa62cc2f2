"""Search by embeddings and words, chunks of documents, and scores of it all."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from ..modeling.heads.retrieval_scores import RetrievalVectors
    from .chunking import sentence_spans
    from .hits import Hit
    from .hybrid import HybridSearch
    from .late_chunking import LateChunks, late_chunks
    from .listwise import ListwiseReranker
    from .reranking import Reranker, load_reranker
    from .scores import Retrieval
    from .sources import SourcedPrompt, cited_numbers, prompt_with_sources
    from .stores.addresses import open_store
    from .stores.base import Store
    from .stores.embedded import EmbeddedStore
    from .stores.milvus import MilvusStore
    from .stores.postgres import PostgresStore

__all__ = [
    "EmbeddedStore",
    "Hit",
    "HybridSearch",
    "LateChunks",
    "ListwiseReranker",
    "MilvusStore",
    "PostgresStore",
    "Reranker",
    "Retrieval",
    "RetrievalVectors",
    "SourcedPrompt",
    "Store",
    "cited_numbers",
    "late_chunks",
    "load_reranker",
    "open_store",
    "prompt_with_sources",
    "sentence_spans",
]

__getattr__, __dir__ = lazy_names(__name__)
