"""Documents in memory, and in a folder: compared one by one, or above a size by a graph of neighbours."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

from ..bm25 import BM25
from ..fusion import Candidates, best
from ..sparse_weights import SparseWeights
from ..words import Words
from .base import Store, count_queries
from .index_folder import Saved, damaged, reading_index, write_index


EXACT_BELOW = 50_000  # documents; for one query all of them take some ten milliseconds
NEIGHBOURS, BUILD_WIDTH, SEARCH_WIDTH = 32, 200, 256  # of the graph: links a document, and candidates that are kept
BLOCK = 256  # queries that are compared with all documents at a time
DOCUMENTS, ARRAYS, VOCABULARY, GRAPH = "documents.jsonl", "arrays.safetensors", "vocabulary.json", "graph.faiss"


class EmbeddedStore(Store):
    """A store in this process, which `save` writes to a folder.

    Dense vectors are compared one by one (exact) below `EXACT_BELOW` documents. Above it faiss walks a graph (HNSW,
    Malkov and Yashunin 2016, arXiv 1603.09320), which finds nearly all of the nearest ones. Words are scored by BM25,
    or by the weights of a model. Graph and BM25 are made anew, where they have to be, at the next search or saving:
    the graph after documents were removed or replaced, BM25 after any change.

    Args:
        exact: True to compare all vectors at any size, False for the graph at any size.
        chinese: As for `Words`.
    """

    def __init__(self, exact: bool | None = None, chinese: str = "bigrams"):
        self.words = Words(chinese)
        self.wanted_exact = exact
        self.documents: dict[str, str] = {}
        self._ids: list[str] | None = []
        self._vectors = np.zeros((0, 0), np.float32)
        self._bm25: BM25 | None = None
        self._weights: SparseWeights | None = None
        self._graph: Any = None
        self._folder: tuple[Path, str] | None = None  # that it was loaded from or saved to, and its files then

    @property
    def exact(self) -> bool:
        """Whether all vectors are compared."""
        return len(self) < EXACT_BELOW if self.wanted_exact is None else self.wanted_exact

    def set_encoder(self, encoder: Mapping[str, Any]) -> None:
        """Keeps what is known of the model."""
        self.encoder = dict(encoder)

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def ids(self) -> list[str]:
        """The documents, in the order of their vectors."""
        if self._ids is None:
            self._ids = [*self.documents]
        return self._ids

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts of those of these documents that are there."""
        return {id_: self.documents[id_] for id_ in ids if id_ in self.documents}

    def put(self, documents: Mapping[str, str], vectors: np.ndarray, weights: csr_matrix | None = None) -> None:
        """Adds documents; those that take the place of others go to the end."""
        self.remove([id_ for id_ in documents if id_ in self.documents])
        if self._graph is not None:
            self._graph.add(vectors)
        self._vectors = np.concatenate([self._vectors, vectors]) if len(self) else np.ascontiguousarray(vectors)
        if weights is not None:
            self._weights = self._weights.joined(weights) if self._weights else SparseWeights(weights)
        self.documents.update(documents)
        self._ids = self._bm25 = None

    def remove(self, ids: Sequence[str]) -> None:
        """Removes documents."""
        if not ids:
            return
        gone = set(ids)
        stay = [id_ not in gone for id_ in self.ids]
        self._vectors = self._vectors[stay]
        if self._weights is not None:
            self._weights = self._weights.kept(np.flatnonzero(stay))
        for id_ in ids:
            del self.documents[id_]
        self._ids = self._bm25 = self._graph = None

    @property
    def usual_depth(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride] depends on the size
        """All documents where all vectors are compared anyway, else 300."""
        return None if self.exact else Store.usual_depth

    def candidates(
        self, vectors: np.ndarray | None, queries: Sequence[str] | csr_matrix | None, depth: int
    ) -> list[Candidates]:
        """The best documents by dot product and by words, in the order that they have here."""
        count = count_queries(vectors, queries)
        found = []
        for start in range(0, count, BLOCK):
            rows = slice(start, start + BLOCK)
            dense = [None] * count if vectors is None else self._nearest(vectors[rows], depth)
            lexical = [None] * count if queries is None else self._lexical_scores(queries[rows])
            found += [self._choose(*pair, depth) for pair in zip(dense, lexical, strict=False)]
        return found

    def _nearest(self, vectors: np.ndarray, depth: int) -> Iterator["Nearest"]:
        """The places of the nearest documents, and what computes the scores of places."""
        if self.exact:
            everywhere = np.arange(len(self)) if depth >= len(self) else None
            for scores in vectors @ self._vectors.T:
                places = np.sort(best(scores, depth)) if everywhere is None else everywhere
                yield Nearest(places, scores.__getitem__)
            return
        parameters: Any = import_faiss().SearchParametersHNSW(efSearch=max(SEARCH_WIDTH, depth))
        _, walked = self._get_graph().search(vectors, depth, params=parameters)
        for vector, places in zip(vectors, walked, strict=True):
            yield Nearest(np.sort(places[places >= 0]), lambda wanted, vector=vector: self._vectors[wanted] @ vector)

    def _lexical_scores(self, queries: Sequence[str] | csr_matrix) -> Iterator[np.ndarray]:
        if isinstance(queries, csr_matrix):
            weights = self._get_weights()
            return (weights.scores(queries[row]) for row in range(count_queries(None, queries)))
        bm25 = self._get_bm25()
        return (bm25.scores(self.words(query)) for query in queries)

    def _choose(self, nearest: "Nearest | None", lexical: np.ndarray | None, depth: int) -> Candidates:
        """The union of both kinds of best documents, with both scores."""
        places, ids = np.zeros(0, np.int64) if nearest is None else nearest.places, self.ids
        if len(places) < len(ids):
            if lexical is not None:
                matching = np.flatnonzero(lexical > 0)
                places = np.concatenate([places, matching[best(lexical[matching], depth)]])
            places = np.unique(places)
            ids = [ids[place] for place in places.tolist()]
        return Candidates(
            ids,
            None if nearest is None else nearest.scores(places),
            None if lexical is None else lexical[places],
            depth,
        )

    def _get_graph(self) -> Any:
        if self._graph is None:
            faiss = import_faiss()
            self._graph = faiss.IndexHNSWFlat(self._vectors.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            self._graph.hnsw.efConstruction = BUILD_WIDTH
            self._graph.add(self._vectors)
        return self._graph

    def _get_bm25(self) -> BM25:
        if self._bm25 is None:
            self._bm25 = BM25.of(self.documents.values(), self.words)
        return self._bm25

    def _get_weights(self) -> SparseWeights:
        dimension = (self.encoder or {})["sparse"]["dimension"]
        return self._weights or SparseWeights(csr_matrix((len(self), dimension), dtype=np.float32))

    def save(self, folder: str | Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        """Writes all to a folder; errors and what a kill leaves are those of `write_index`."""
        folder, bm25 = Path(folder), self._get_bm25() if self.lexical == "bm25" else None
        scored = (bm25 or self._get_weights()).arrays
        arrays = {"vectors": self._vectors, **{f"{self.lexical}.{name}": array for name, array in scored.items()}}
        writers: dict[str, Callable[[Path], Any]] = {
            DOCUMENTS: lambda path: write_documents(path, self.documents),
            ARRAYS: lambda path: save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, path),
        }
        if bm25 is not None:
            vocabulary = json.dumps(bm25.vocabulary, ensure_ascii=False)
            writers[VOCABULARY] = lambda path: path.write_text(vocabulary, "utf-8")
        if not self.exact:
            writers[GRAPH] = lambda path: write_graph(path, self._get_graph())
        own = {"encoder": self.encoder, "exact": self.wanted_exact, "chinese": self.words.chinese}
        is_same = self._folder is not None and self._folder[0] == folder.resolve()
        expected = self._folder[1] if self._folder is not None and is_same else None
        self._folder = (folder.resolve(), write_index(folder, {**settings, **own}, writers, expected, overwrite))

    @classmethod
    def load(cls, folder: str | Path) -> tuple["EmbeddedStore", dict[str, Any]]:
        """Reads a store, and the settings that were saved with it.

        Raises:
            FileNotFoundError: There is no index.
            ValueError: It is damaged, or of another version.
            ImportError: It has a graph, and faiss is not installed.
        """
        folder = Path(folder)
        with reading_index(folder) as saved:
            try:
                store = cls._read(saved)
            except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
                raise damaged(folder, f"{type(error).__name__}: {error}") from error
        store._folder = (folder.resolve(), saved.files.name)
        return store, saved.settings

    @classmethod
    def _read(cls, saved: Saved) -> "EmbeddedStore":
        store = cls(saved.settings["exact"], saved.settings["chinese"])
        store.encoder = saved.settings["encoder"]
        store.documents = read_documents(saved.files / DOCUMENTS)
        arrays = load_file(saved.files / ARRAYS)
        store._vectors, store._ids = arrays["vectors"], None
        if len(store._vectors) != len(store):
            raise ValueError(f"{len(store._vectors)} vectors for {len(store)} documents")
        scored = {n: arrays[f"{store.lexical}.{n}"] for n in ("data", "indices", "indptr")}
        if store.lexical == "sparse":
            store._weights = SparseWeights.read(scored, saved.settings["encoder"]["sparse"]["dimension"])
        else:
            vocabulary = json.loads((saved.files / VOCABULARY).read_text(encoding="utf-8"))
            store._bm25 = BM25(vocabulary, scored, len(store))
        if not store.exact:
            store._graph = read_graph(saved.files / GRAPH)
        return store


class Nearest(NamedTuple):
    """The places of the nearest documents to a query, the first added first, and a function for the scores of any."""

    places: np.ndarray
    scores: Callable[[np.ndarray], np.ndarray]


def write_documents(path: Path, documents: Mapping[str, str]) -> None:
    """Writes a line of JSON for each document."""
    with open(path, "w", encoding="utf-8") as file:
        for id_, text in documents.items():
            file.write(json.dumps({"id": id_, "text": text}, ensure_ascii=False) + "\n")


def read_documents(path: Path) -> dict[str, str]:
    """Reads what `write_documents` wrote."""
    with open(path, encoding="utf-8") as file:
        records = map(json.loads, file)
        return {record["id"]: record["text"] for record in records}


def write_graph(path: Path, graph: Any) -> None:
    """Writes a graph of faiss."""
    import_faiss().write_index(graph, str(path))


def read_graph(path: Path) -> Any:
    """Reads a graph of faiss."""
    return import_faiss().read_index(str(path))


def import_faiss() -> Any:
    """The module. Raises an ImportError that says how to install it, or to do without."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"From {EXACT_BELOW:,} documents on the store needs faiss: pip install 'trine[retrieval]'. "
            "EmbeddedStore(exact=True) compares all vectors without it."
        ) from error
    return faiss
