"""Search by embeddings and words, and scores of it."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .hybrid import Hit, HybridSearch
    from .scores import Retrieval
    from .stores.base import Store
    from .stores.embedded import EmbeddedStore

__all__ = [
    "EmbeddedStore",
    "Hit",
    "HybridSearch",
    "Retrieval",
    "Store",
]

__getattr__, __dir__ = lazy_names(__name__)
