"""Search by dense vectors and by words at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sentence_transformers import SentenceTransformer, SparseEncoder

from ..configuration.patterns import check_choice, named_type
from .checks import check_count, check_documents, check_text
from .document_chunks import KEY, LateChunking, ids_by_document
from .encoder_identity import check_same, identify
from .encoding import USUAL_BATCH, encode_texts
from .fusion import Candidates, check_fusion, fuse
from .hits import Hit, as_hit, ranked_hits
from .reranking import RERANK_WEIGHT, Reranker, check_rerank_weight
from .sparse_models import find_sparse_model
from .stores.base import Store
from .stores.embedded import EmbeddedStore
from .stores.index_folder import damaged


LEXICAL = ("bm25", "sparse")  # what scores words
SETTINGS = ("dense_weight", "lexical_weight", "fusion", "candidates")  # that an index keeps
USUAL: dict[str, Any] = {"fusion": "min-max", "dense_weight": 0.7, "lexical_weight": 0.3}


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
        late_chunking: Whether documents are cut into chunks, each embedded in the context of its document, as by
            `late_chunks`; hits are chunks then, and name document and span. By default as the store, and False in a
            new one.
        chunk_size: Tokens of such a chunk. By default as the store, and a sentence each in a new one.

    Raises:
        TypeError: `model` or `store` is of another type.
        ValueError: Weights, fusion or candidates that cannot be used, a sparse model without a trained head, late
            chunking of a model that does not take the mean over tokens, or a store with vectors of another model or
            with other chunks.
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
        late_chunking: bool | None = None,
        chunk_size: int | None = None,
    ):
        if not isinstance(model, SentenceTransformer):
            raise TypeError(f"model={model!r:.80} is {named_type(model)}; pass a SentenceTransformer.")
        if not isinstance(store, (Store, type(None))):
            raise TypeError(f"store={store!r:.80} is {named_type(store)}; pass a store, such as open_store makes.")
        check_fusion(fusion, dense_weight, lexical_weight)
        if candidates is not None:
            check_count("candidates", candidates)
        self.model, self.store = model, EmbeddedStore() if store is None else store
        self.dense_weight, self.lexical_weight, self.fusion = dense_weight, lexical_weight, fusion
        self.candidates, self.batch_size = candidates, batch_size
        self.sparse = None
        if self._is_sparse(lexical, sparse_model):
            self.sparse = find_sparse_model(sparse_model, model, self.store.encoder)
        self.chunking = self._find_chunking(late_chunking, chunk_size)
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

    def _find_chunking(self, late_chunking: bool | None, chunk_size: int | None) -> LateChunking | None:
        """How documents are cut; None where they stay whole."""
        if chunk_size is not None and not late_chunking:
            raise ValueError(f"chunk_size={chunk_size} is for late_chunking=True.")
        known = (self.store.encoder or {}).get(KEY)
        if self.store.encoder is not None and late_chunking is not None:
            wanted = {"chunk_size": chunk_size} if late_chunking else None
            if wanted != known:
                have = "whole documents" if known is None else f"chunks with chunk_size={known['chunk_size']}"
                options = f"late_chunking={late_chunking}, chunk_size={chunk_size}"
                raise ValueError(f"{options}: the index has {have}. Leave them out, or make a new index.")
        if known is None and not late_chunking:
            return None
        return LateChunking(self.model, known["chunk_size"] if known else chunk_size, self.batch_size)

    def _meet(self, encoder: dict[str, Any]) -> None:
        """Checks that the store has been made with these models, and keeps where they are now."""
        if self.chunking is not None:
            encoder[KEY] = {"chunk_size": self.chunking.chunk_size}
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
        return len(self.store)  # of chunks, where documents are cut

    @property
    def ids(self) -> list[str]:
        """The ids of all documents."""
        return self.store.ids if self.chunking is None else [*ids_by_document(self.store.ids)]

    def texts(self, ids: Iterable[str]) -> dict[str, str]:
        """The whole texts of those of these documents that are there, by their ids."""
        wanted = [*dict.fromkeys(ids)]
        if self.chunking is None:
            return self.store.texts(wanted)
        parts = self._chunks_of(wanted)
        texts = self.store.texts([id_ for own in parts.values() for id_ in own])
        return {name: "".join(texts[id_] for id_ in own) for name, own in parts.items()}

    def _chunks_of(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """The ids of the chunks of those of these documents that are there."""
        there = ids_by_document(self.store.ids)
        return {id_: there[id_] for id_ in ids if id_ in there}

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
        if there := [*self.texts(documents)]:
            raise ValueError(f"documents has ids that are there already: {there[:5]}. `update` replaces their texts.")
        if documents:
            self._put(documents, show_progress)

    def update(self, documents: Mapping[str, str], show_progress: bool = False) -> Changes:
        """Adds documents, and replaces those whose ids are there with another text; only these are encoded.

        Arguments and errors are those of `add`, but that ids may be there.
        """
        check_documents(documents)
        there = self.texts(documents)
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
        there = self.texts(ids)
        if missing := [id_ for id_ in ids if id_ not in there]:
            raise KeyError(f"ids={missing[:5]} are not among the documents.")
        if self.chunking is not None:
            ids = [*chain(*self._chunks_of(ids).values())]
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
        cut = self.chunking is not None
        return [[as_hit(each, texts[each.id], cut) for each in row if each.id in texts] for row in fused]

    def _candidates(self, queries: Sequence[str], k: int) -> list[Candidates]:
        """The documents that each query can find; kinds of weight 0 are left out."""
        depth = self.store.usual_depth if self.candidates is None else self.candidates
        vectors = self._encode(self.model.encode_query, queries) if self.dense_weight else None
        words: Any = queries if self.lexical_weight else None
        if words is not None and self.sparse is not None:
            words = self.sparse.queries(queries, self.batch_size or USUAL_BATCH)
        return self.store.candidates(vectors, words, len(self) if depth is None else min(len(self), max(depth, k)))

    def _put(self, documents: Mapping[str, str], show_progress: bool) -> None:
        before = [] if self.chunking is None else [*chain(*self._chunks_of([*documents]).values())]
        documents, vectors = self._encode_documents(documents, show_progress)
        weights = None
        if self.sparse is not None:
            weights = self.sparse.documents([*documents.values()], self.batch_size or USUAL_BATCH)
        self.store.put(documents, vectors, weights)
        if gone := [id_ for id_ in before if id_ not in documents]:
            self.store.remove(gone)

    def _encode_documents(
        self, documents: Mapping[str, str], show_progress: bool
    ) -> tuple[Mapping[str, str], np.ndarray]:
        """The texts that the store gets, documents or their chunks, by their ids, and their vectors."""
        if self.chunking is None:
            vectors = self._encode(self.model.encode_document, [*documents.values()], show_progress)
        else:
            documents, vectors = self.chunking.cut(documents)
            vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        bad = [id_ for id_, row in zip(documents, vectors, strict=True) if not np.isfinite(row).all()]
        if bad:
            raise ValueError(f"The model gives vectors that are not finite for {len(bad)} documents: {bad[:5]}.")
        return documents, vectors

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

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes documents, vectors, BM25 and settings to a folder; a kill leaves the old index or the new one.

        Args:
            folder: Is made where it is not there.
            overwrite: Whether to replace an index that this one was not loaded from.

        Raises:
            ValueError: Another process has saved there since this index was loaded or saved, there is another index,
                or the store is a database, which keeps all by itself.
            OSError: The folder cannot be written. It is as it was.
        """
        if not isinstance(self.store, EmbeddedStore):
            raise ValueError(f"save: store={type(self.store).__name__} keeps its documents by itself.")
        self.store.save(folder, {name: getattr(self, name) for name in SETTINGS}, overwrite)

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
        late_chunking: bool | None = None,
        chunk_size: int | None = None,
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
            late_chunking: As for the class.
            chunk_size: As for the class.

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
        options |= {"late_chunking": late_chunking, "chunk_size": chunk_size}
        return cls(model, store=store, batch_size=batch_size, sparse_model=sparse_model, **options)
