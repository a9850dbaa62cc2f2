"""Scores of embeddings."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .scores import Retrieval

__all__ = [
    "Retrieval",
]

__getattr__, __dir__ = lazy_names(__name__)
