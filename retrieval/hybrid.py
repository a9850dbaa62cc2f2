"""Search by dense vectors and by words at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sentence_transformers import SentenceTransformer, SparseEncoder

from ..configuration.patterns import check_choice, named_type
from .encoder_identity import check_same, identify
from .encoding import USUAL_BATCH, encode_texts
from .fusion import Candidates, Fused, check_fusion, fuse
from .reranking import RERANK_WEIGHT, Reranker, check_rerank_weight, mix, rank_again
from .sparse_models import find_sparse_model
from .stores.base import Store
from .stores.embedded import EmbeddedStore
from .stores.index_folder import damaged


LEXICAL = ("bm25", "sparse")  # what scores words
SETTINGS = ("dense_weight", "lexical_weight", "fusion", "candidates")  # that an index keeps
USUAL: dict[str, Any] = {"fusion": "min-max", "dense_weight": 0.7, "lexical_weight": 0.3}


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

    @property
    def ranked_by(self) -> float:
        """The score of its place: the sum of search and reranker, the reranker's alone, or the search's."""
        scores = (self.mixed, self.rerank, self.score)
        return next(score for score in scores if score is not None)


class Changes(NamedTuple):
    """Numbers of documents."""

    added: int
    replaced: int
    unchanged: int


class HybridSearch:
    """Finds documents by the vectors of a `SentenceTransformer` and by words, and adds both scores, normalised.

    The candidates are all documents, or the best by vectors and the best by words; each has both scores, also where
    only one of them made it a candidate. Where no word of a query is known, vectors alone decide.

    Args:
        model: Compares texts by cosine or dot product.
        documents: Texts by their ids, to begin with.
        dense_weight: Weight of the vectors' scores; 0 leaves vectors out.
        lexical_weight: Weight of the words' scores; 0 leaves words out.
        fusion: How scores of two kinds are made comparable: `min-max` to the range from 0 to 1; `z-score` by mean and
            standard deviation; `rrf` by ranks (Cormack et al. 2009). Raw scores are not: BM25 has no limit.
        candidates: How many of the best documents by vectors, and as many by words, are looked at; by default all in
            a store that compares all vectors, else 300.
        store: Where the documents lie, by default in memory.
        batch_size: Texts that are encoded at a time. By default 32, and on a CPU fewer of long ones.
        lexical: What scores words: `bm25`, or `sparse` for the weights that a model gives to tokens. By default as the
            store, and BM25 in a new one.
        sparse_model: Gives these weights: a `SparseEncoder`, or what loads one by its name. By default the one that
            made the index; in a new one, that in the folder of `model`, if it is a `TrineForRetrieval` with `sparse`.

    Raises:
        ValueError: Weights, fusion or candidates that cannot be used, a sparse model without a trained head, or a
            store with vectors of another model.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        documents: Mapping[str, str] | None = None,
        *,
        dense_weight: float = 0.7,
        lexical_weight: float = 0.3,
        fusion: str = "min-max",
        candidates: int | None = None,
        store: Store | None = None,
        batch_size: int | None = None,
        lexical: str | None = None,
        sparse_model: SparseEncoder | Callable[[str], SparseEncoder] | None = None,
    ):
        check_fusion(fusion, dense_weight, lexical_weight)
        if candidates is not None:
            check_count("candidates", candidates)
        self.model, self.store = model, EmbeddedStore() if store is None else store
        self.dense_weight, self.lexical_weight, self.fusion = dense_weight, lexical_weight, fusion
        self.candidates, self.batch_size = candidates, batch_size
        self.sparse = None
        if self._is_sparse(lexical, sparse_model):
            self.sparse = find_sparse_model(sparse_model, model, self.store.encoder)
        self._meet(identify(model))
        if documents:
            self.add(documents)

    def _is_sparse(self, lexical: str | None, sparse_model: Any) -> bool:
        """Whether weights of tokens take the place of BM25."""
        if lexical is not None:
            check_choice("lexical", lexical, LEXICAL)
        known = None if self.store.encoder is None else self.store.lexical
        if lexical is not None and known not in (None, lexical):
            raise ValueError(f"lexical={lexical!r} differs from {known!r}, which the index has. Make a new index.")
        is_sparse = (lexical or known) == "sparse"
        if isinstance(sparse_model, SparseEncoder) and not is_sparse:
            raise ValueError(f"sparse_model is for lexical='sparse', not for {lexical or known or 'bm25'!r}.")
        return is_sparse

    def _meet(self, encoder: dict[str, Any]) -> None:
        """Checks that the store has been made with these models, and keeps where they are now."""
        if self.sparse is not None:
            encoder["sparse"] = self.sparse.identify()
        if self.store.encoder is None:
            self.store.set_encoder(encoder)
        known = self.store.encoder or encoder
        check_same(encoder, known)
        now = {**known, "name": encoder["name"]}
        if self.sparse is not None:
            check_same(encoder["sparse"], known["sparse"], "sparse_model")
            now["sparse"] = {**known["sparse"], "name": encoder["sparse"]["name"]}
        self.store.encoder = now

    def __len__(self) -> int:
        return len(self.store)

    def add(self, documents: Mapping[str, str], show_progress: bool = False) -> None:
        """Adds documents.

        Args:
            documents: Texts by their ids.
            show_progress: Whether a bar shows how many are encoded.

        Raises:
            ValueError: An id is there already, a text is empty, or the model gives numbers that are not finite.
            TypeError: Ids or texts are no texts.
        """
        check_documents(documents)
        if there := [*self.store.texts([*documents])]:
            raise ValueError(f"documents has ids that are there already: {there[:5]}. `update` replaces their texts.")
        if documents:
            self._put(documents, show_progress)

    def update(self, documents: Mapping[str, str], show_progress: bool = False) -> Changes:
        """Adds documents, and replaces those whose ids are there with another text; only these are encoded.

        Arguments and errors are those of `add`, but that ids may be there.
        """
        check_documents(documents)
        there = self.store.texts([*documents])
        changed = {id_: text for id_, text in documents.items() if there.get(id_) != text}
        if changed:
            self._put(changed, show_progress)
        replaced = len(there.keys() & changed.keys())
        return Changes(len(changed) - replaced, replaced, len(documents) - len(changed))

    def remove(self, ids: Iterable[str]) -> None:
        """Removes documents.

        Raises:
            KeyError: One is not there. Nothing is removed.
        """
        if isinstance(ids, str):
            raise TypeError(f"ids={ids!r} is one text; pass a list.")
        ids = [*dict.fromkeys(ids)]
        there = self.store.texts(ids)
        if missing := [id_ for id_ in ids if id_ not in there]:
            raise KeyError(f"ids={missing[:5]} are not among the documents.")
        self.store.remove(ids)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        rerank: Reranker | None = None,
        rerank_candidates: int = 50,
        rerank_weight: float = RERANK_WEIGHT,
    ) -> list[Hit]:
        """Finds the best documents for a query, the best first.

        Args:
            query: A text.
            k: How many documents; all, where there are fewer.
            rerank: Ranks the best of them again: a `CrossEncoder`, a `ListwiseReranker`, or whatever has a method
                `rank` like theirs.
            rerank_candidates: How many of the best it ranks; k, where that is more.
            rerank_weight: Of its score, the search's has the rest of 1; both are made comparable by `fusion`. With 1
                the reranker alone decides.

        Raises:
            ValueError: The query is empty, k or rerank_candidates are no numbers of at least 1, rerank_weight is not
                above 0 and at most 1, or the reranker fails.
        """
        options: Any = {"rerank_candidates": rerank_candidates, "rerank_weight": rerank_weight}
        return self.search_all([query], k, rerank=rerank, **options)[0]

    def search_all(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        rerank: Reranker | None = None,
        rerank_candidates: int = 50,
        rerank_weight: float = RERANK_WEIGHT,
    ) -> list[list[Hit]]:
        """As `search`, for several queries, which are encoded together."""
        check_count("k", k)
        check_count("rerank_candidates", rerank_candidates)
        check_rerank_weight(rerank_weight)
        if rerank is not None:
            found = self.search_all(queries, max(k, rerank_candidates))
            how = rerank_weight, self.fusion
            return [ranked_hits(rerank, query, hits, *how)[:k] for query, hits in zip(queries, found, strict=True)]
        check_fusion(self.fusion, self.dense_weight, self.lexical_weight)
        if isinstance(queries, str):
            raise TypeError(f"queries={queries!r} is one text; pass a list, or call `search`.")
        for query in queries:
            check_text("query", query)
        if not queries or not len(self):
            return [[] for _ in queries]
        weights = self.dense_weight, self.lexical_weight
        fused = [fuse(each, *weights, self.fusion, k) for each in self._candidates(queries, k)]
        texts = self.store.texts([*dict.fromkeys(each.id for row in fused for each in row)])
        return [[as_hit(each, texts[each.id]) for each in row if each.id in texts] for row in fused]

    def _candidates(self, queries: Sequence[str], k: int) -> list[Candidates]:
        """The documents that each query can find; kinds of weight 0 are left out."""
        depth = self.store.usual_depth if self.candidates is None else self.candidates
        vectors = self._encode(self.model.encode_query, queries) if self.dense_weight else None
        words: Any = queries if self.lexical_weight else None
        if words is not None and self.sparse is not None:
            words = self.sparse.queries(queries, self.batch_size or USUAL_BATCH)
        return self.store.candidates(vectors, words, len(self) if depth is None else min(len(self), max(depth, k)))

    def _put(self, documents: Mapping[str, str], show_progress: bool) -> None:
        vectors, weights = self._encode_documents(documents, show_progress), None
        if self.sparse is not None:
            weights = self.sparse.documents([*documents.values()], self.batch_size or USUAL_BATCH)
        self.store.put(documents, vectors, weights)

    def _encode_documents(self, documents: Mapping[str, str], show_progress: bool) -> np.ndarray:
        vectors = self._encode(self.model.encode_document, [*documents.values()], show_progress)
        bad = [id_ for id_, row in zip(documents, vectors, strict=True) if not np.isfinite(row).all()]
        if bad:
            raise ValueError(f"The model gives vectors that are not finite for {len(bad)} documents: {bad[:5]}.")
        return vectors

    def _encode(self, encode: Any, texts: Sequence[str], show_progress: bool = False) -> np.ndarray:
        vectors = encode_texts(
            encode,
            texts,
            self.batch_size,
            self.model.device.type == "cpu",
            self.model.max_seq_length,
            show_progress_bar=show_progress,
            convert_to_numpy=True,
            normalize_embeddings=self.model.similarity_fn_name == "cosine",
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def save(self, folder: str | Path) -> None:
        """Writes documents, vectors, BM25 and settings to a folder; a kill leaves the old index or the new one.

        Raises:
            ValueError: Another process has saved there since this index was loaded or saved, or the store is a
                database, which keeps all by itself.
            OSError: The folder cannot be written. It is as it was.
        """
        if not isinstance(self.store, EmbeddedStore):
            raise ValueError(f"save: store={type(self.store).__name__} keeps its documents by itself.")
        self.store.save(folder, {name: getattr(self, name) for name in SETTINGS})

    @classmethod
    def load(
        cls,
        index: str | Path | Store,
        model: SentenceTransformer | Callable[[str], SentenceTransformer],
        *,
        dense_weight: float | None = None,
        lexical_weight: float | None = None,
        fusion: str | None = None,
        batch_size: int | None = None,
        sparse_model: SparseEncoder | Callable[[str], SparseEncoder] | None = None,
    ) -> "HybridSearch":
        """Reads what `save` wrote, or begins with a store that holds documents.

        Args:
            index: A folder, or a store.
            model: The model that made it, or what loads it by its name, such as the class `SentenceTransformer`.
            dense_weight: In place of the one that was saved; a store that is a database has 0.7.
            lexical_weight: In place of the one that was saved; a store that is a database has 0.3.
            fusion: In place of the one that was saved; a store that is a database has `min-max`.
            batch_size: As for the class.
            sparse_model: As for the class.

        Raises:
            FileNotFoundError: There is no index.
            ValueError: It is damaged, made by another model, or does not name the one to load; or options that cannot
                be used.
            ImportError: It has a graph, and faiss is not installed.
        """
        given = {"dense_weight": dense_weight, "lexical_weight": lexical_weight, "fusion": fusion}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if isinstance(index, Store):
            store, place = index, f"store={type(index).__name__}"
        else:
            store, settings = EmbeddedStore.load(index)
            if missing := [name for name in SETTINGS if name not in settings]:
                raise damaged(Path(index), f"its settings lack {missing}")
            options, place = {name: settings[name] for name in SETTINGS} | options, f"index='{index}'"
        check_fusion(*({**USUAL, **options}[name] for name in USUAL))
        if not isinstance(model, SentenceTransformer):
            name = (store.encoder or {}).get("name")
            if not name:
                raise ValueError(f"{place} does not name the model that made it; pass that model.")
            model = model(name)
        return cls(model, store=store, batch_size=batch_size, sparse_model=sparse_model, **options)


def as_hit(fused: Fused, text: str) -> Hit:
    """Puts a fused score and its text together."""
    return Hit(
        fused.id, text, fused.score, fused.dense_part, fused.lexical_part, dense=fused.dense, lexical=fused.lexical
    )


def ranked_hits(reranker: Reranker, query: str, hits: Sequence[Hit], weight: float, fusion: str) -> list[Hit]:
    """Hits in the order of a reranker, or of its scores and theirs together, with these."""
    ranked = rank_again(reranker, query, [hit.text for hit in hits])
    mixed = mix(ranked, [hit.score for hit in hits], weight, fusion)
    return [hits[each.place]._replace(rerank=each.score, rerank_part=each.part, mixed=each.total) for each in mixed]


def check_count(name: str, value: Any) -> None:
    """Raises a ValueError unless a value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1.")


def check_text(name: str, value: Any) -> None:
    """Raises a TypeError for what is no text, and a ValueError for one that is empty or has half a character."""
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r} is {named_type(value)}, not a text.")
    if not value.strip():
        raise ValueError(f"{name}={value!r} is an empty text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}={value!r} holds one half of a character, which is no text.") from error


def check_documents(documents: Any) -> None:
    """Raises a TypeError or ValueError that names the first document that cannot be used."""
    if not isinstance(documents, Mapping):
        raise TypeError(f"documents is {named_type(documents)}; pass a mapping from ids to texts.")
    for id_, text in documents.items():
        check_text("id", id_)
        check_text(f"documents[{id_!r}]", text)
