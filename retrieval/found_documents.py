"""Gives what a search finds to other libraries: texts with ids, scores and metadata, to several threads."""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from .checks import check_count
from .hits import Hit
from .hybrid import HybridSearch
from .reranking import check_rerank_weight


SCORES = ("score", "dense", "lexical", "rerank", "mixed")  # keys of a document's metadata
_LOCKS: WeakKeyDictionary[HybridSearch, Lock] = WeakKeyDictionary()
_MAKING = Lock()
# What is known of documents: by their ids, or a function of an id.
Metadata = Mapping[str, Mapping[str, Any]] | Callable[[str], Mapping[str, Any]] | None


class Found(NamedTuple):
    """A document.

    Args:
        id: Its id.
        text: Its text.
        score: What it is ranked by: the sum of reranker and search, the reranker's score, or else that of vectors and
            words.
        metadata: What is known of it, and the scores of `SCORES` that it has.
    """

    id: str
    text: str
    score: float
    metadata: dict[str, Any]


def check_retriever(search: Any, k: Any, rerank_weight: Any) -> None:
    """Raises a TypeError or ValueError for what no retriever can be made of."""
    if not isinstance(search, HybridSearch):
        raise TypeError(f"search is a {type(search).__name__}, not a HybridSearch.")
    check_count("k", k)
    check_rerank_weight(rerank_weight)


def find(search: HybridSearch, query: str, k: int, metadata: Metadata, **rerank: Any) -> list[Found]:
    """Finds documents; threads wait for each other, as fast tokenizers serve one at a time.

    Args:
        search: Where.
        query: What for.
        k: How many.
        metadata: What is known of them.
        rerank: What ranks again, of how many, and its weight, as for `HybridSearch.search`.

    Raises:
        ValueError: The query is empty, or the metadata have a key of `SCORES`.
    """
    with _MAKING:
        lock = _LOCKS.setdefault(search, Lock())
    with lock:
        hits = search.search(query, k, **rerank)
    return [as_found(hit, metadata) for hit in hits]


def as_found(hit: Hit, metadata: Metadata) -> Found:
    """A hit with what is known of its document."""
    name = hit.document or hit.id
    known = dict(metadata(name) if callable(metadata) else (metadata or {}).get(name, {}))
    if taken := [name for name in SCORES if name in known]:
        raise ValueError(f"The metadata of document {name!r} have the key {taken[0]!r}, which is that of a score.")
    scores = {name: getattr(hit, name) for name in SCORES if getattr(hit, name) is not None}
    return Found(hit.id, hit.text, hit.ranked_by, {**known, **scores})
