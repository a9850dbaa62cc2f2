"""Documents in Milvus: vectors by its indexes, words as sparse vectors whose scores become BM25."""

import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from ..encoder_identity import check_same
from ..fusion import Candidates, best
from ..words import Words
from .base import Store, count_queries
from .milvus_rows import (
    BITS,
    LENGTHS,
    LONGEST,
    MOST_WORDS,
    NOTHING,
    as_mapping,
    as_row,
    check_sizes,
    key_of,
    penalty,
    saturated,
    token_of,
)
from .passwords import hide_password, without_password


SETTINGS = "trine"  # name of the property in which milvus-lite keeps what a server has as description
NAME = "[A-Za-z][A-Za-z0-9_]{0,49}"
MOST_FOUND = 16_384  # documents that a search of Milvus gives
BATCH, SCAN = 500, 10_000  # documents that are sent, and read, at a time
NEIGHBOURS, BUILD_WIDTH, SEARCH_WIDTH = 32, 200, 256  # of the graph, as in the embedded store


class Statistics(NamedTuple):
    """Numbers of all documents, for BM25: how many, their length in words together, and in how many a word is."""

    total: int
    length: int
    frequencies: Mapping[int, int]


class MilvusStore(Store):
    """A store in a collection of Milvus, which lies on as many machines as Milvus does, or in a file.

    Milvus' own BM25 splits words in ways that are not ours, and milvus-lite counts documents by parts of the
    collection. So a text's words are a sparse vector of what each adds to BM25 at the mean length of the first
    documents; a search finds twice as many by these as it needs, and computes BM25 of today's mean, and of today's
    number of documents with each word, for them. Weights of a model (`lexical="sparse"`) are compared as they are.

    Milvus has no transactions: documents that are put are sent by 500, and an interruption leaves those that were
    sent. Reading waits for all that was written before (consistency level Strong).

    Args:
        uri: Where it is: a file such as `documents.db`, in which milvus-lite works for one process, or
            `http://host:19530`.
        collection: Its name. It is made with the first document.
        exact: Of a new collection: whether all vectors are compared. Otherwise Milvus walks a graph (HNSW).
        chinese: Of a new collection: as for `Words`.
        token: `user:password`, or a key. By default what the environment variable MILVUS_TOKEN holds.
        shards: Of a new collection: parts that documents are written to. By default one.
        replicas: Copies of the collection in memory, which share the searches. By default one.

    Raises:
        ImportError: pymilvus, or milvus-lite for a file, is not installed.
        ConnectionError: Milvus cannot be reached.
        ValueError: The name cannot be used, the collection was made with other options or not by this class, or shards
            and replicas of a file.
    """

    def __init__(
        self,
        uri: str,
        collection: str = "documents",
        *,
        exact: bool | None = None,
        chinese: str | None = None,
        token: str | None = None,
        shards: int | None = None,
        replicas: int | None = None,
    ):
        if not re.fullmatch(NAME, collection):
            raise ValueError(
                f"collection={collection!r} must be at most 50 letters, digits and underscores, a letter first."
            )
        self.is_file = "://" not in uri
        for name, value in (("shards", shards), ("replicas", replicas)):
            if value is not None and (self.is_file or value < 1):
                raise ValueError(
                    f"{name}={value}: milvus-lite, which keeps '{uri}', has one; they need a server."
                    if self.is_file
                    else f"{name}={value} must be at least 1."
                )
        self.collection, self.shards, self.replicas = collection, shards, replicas or 1
        self.client = connect(uri, token, self.is_file)
        self.settings: dict[str, Any] = {"exact": exact is not False, "chinese": chinese or "bigrams"}
        self._known: Statistics | None = None  # of a file, which no other process changes
        self._length: tuple[int, int] = (0, 0)  # of this many documents, together
        if self.client.has_collection(collection):
            self._read_settings()
        for name, value in (("exact", exact), ("chinese", chinese)):
            if value not in (None, self.settings[name]):
                raise ValueError(
                    f"{name}={value!r} differs from {self.settings[name]!r}, which collection={collection!r} has."
                )
        self.words = Words(self.settings["chinese"])

    def _read_settings(self) -> None:
        described = self.client.describe_collection(self.collection)
        try:
            saved = json.loads(described["properties"][SETTINGS] if self.is_file else described["description"])
            self.encoder = saved.pop("encoder")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"collection={self.collection!r} was not made by MilvusStore. Choose another name."
            ) from None
        self.settings = saved
        self.client.load_collection(self.collection, replica_number=self.replicas)

    @property
    def exact(self) -> bool:
        """Whether all vectors are compared."""
        return bool(self.settings["exact"])

    def set_encoder(self, encoder: Mapping[str, Any]) -> None:
        """Keeps what is known of the model until the first document makes the collection."""
        self.encoder = dict(encoder)

    def _create(self, mean: float) -> None:
        """Makes the collection, unless another process just has; `mean` is the length of texts that its words have."""
        from pymilvus import DataType

        encoder = self.encoder or {}
        settings = json.dumps({**self.settings, "mean": mean, "encoder": encoder})
        schema = self.client.create_schema(auto_id=False, description="" if self.is_file else settings)
        schema.add_field("key", DataType.INT64, is_primary=True)
        schema.add_field("number", DataType.INT64)
        for name in ("id", "text"):
            schema.add_field(name, DataType.VARCHAR, max_length=LONGEST)
        schema.add_field("length", DataType.INT64)
        schema.add_field("words", DataType.ARRAY, element_type=DataType.INT64, max_capacity=MOST_WORDS + BITS)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=encoder["dimension"])
        schema.add_field("tokens", DataType.SPARSE_FLOAT_VECTOR)
        graph = {"M": NEIGHBOURS, "efConstruction": BUILD_WIDTH}
        indexes = self.client.prepare_index_params()
        kind: dict[str, Any] = {"index_type": "FLAT"} if self.exact else {"index_type": "HNSW", "params": graph}
        indexes.add_index("vector", metric_type="IP", **kind)
        indexes.add_index("tokens", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        if not self.is_file:  # milvus-lite has none of lists
            indexes.add_index("words", index_type="INVERTED")
        options: dict[str, Any] = {"consistency_level": "Strong"}
        if self.is_file:  # milvus-lite keeps no description
            options["properties"] = {SETTINGS: settings}
        if self.shards is not None:
            options["num_shards"] = self.shards
        try:
            self.client.create_collection(self.collection, schema=schema, **options)
            self.client.create_index(self.collection, indexes)
        except _milvus_error():
            if not self.client.has_collection(self.collection):
                raise
        self._read_settings()
        check_same(encoder, self.encoder or {})

    def __len__(self) -> int:
        return self._count("") if self._is_made else 0

    @property
    def _is_made(self) -> bool:
        return "mean" in self.settings

    def _count(self, condition: str) -> int:
        return self.client.query(self.collection, filter=condition, output_fields=["count(*)"])[0]["count(*)"]

    def _scan(self, fields: list[str]) -> Iterable[dict[str, Any]]:
        """These fields of all documents."""
        if self.is_file and self._is_made:  # one answer may be of any length
            yield from self.client.query(self.collection, filter="key >= 0", output_fields=fields)
        elif self._is_made:
            rows = self.client.query_iterator(self.collection, batch_size=SCAN, output_fields=fields)
            while batch := rows.next():
                yield from batch
            rows.close()

    def _rows(self, keys: Sequence[int], fields: list[str]) -> list[dict[str, Any]]:
        """These fields of those of some documents that are there."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(keys) if self._is_made else 0, SCAN):
            condition = f"key in {[*keys[start : start + SCAN]]}"
            found += self.client.query(self.collection, filter=condition, output_fields=fields)
        return found

    @property
    def ids(self) -> list[str]:
        """The documents, in the order in which they were added."""
        return [row["id"] for row in sorted(self._scan(["id", "number"]), key=lambda row: row["number"])]

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts of those of these documents that are there."""
        return {row["id"]: row["text"] for row in self._rows([key_of(id_) for id_ in ids], ["id", "text"])}

    def put(self, documents: Mapping[str, str], vectors: np.ndarray, weights: csr_matrix | None = None) -> None:
        """Adds documents; those that take the place of others go to the end.

        Raises:
            ValueError: An id or text is longer than Milvus keeps, or has more different words.
        """
        counts = [Counter(map(token_of, self.words(text))) for text in documents.values()]
        check_sizes(documents, counts)
        if not self._is_made:
            self._create(sum(count.total() for count in counts) / max(1, len(counts)) or 1.0)
        begin, items, mean = time.time_ns(), [*documents.items()], self.settings["mean"]
        for start in range(0, len(items), BATCH):
            rows = []
            for place in range(start, min(start + BATCH, len(items))):
                row = as_row(*items[place], counts[place], begin + place)
                tokens = saturated(counts[place], mean) if weights is None else as_mapping(weights[place])
                rows.append({**row, "vector": vectors[place], "tokens": tokens or {NOTHING: 1.0}})
            self.client.upsert(self.collection, rows)
        self._known = None

    def remove(self, ids: Sequence[str]) -> None:
        """Removes documents."""
        for start in range(0, len(ids), SCAN):
            self.client.delete(self.collection, ids=[key_of(id_) for id_ in ids[start : start + SCAN]])
        self._known = None

    def _statistics(self, tokens: Iterable[int]) -> Statistics:
        """Counts documents: in a file by reading the words of all, once; a server has an index of them."""
        if self.is_file:
            if self._known is None:
                frequencies: Counter[int] = Counter()
                for row in self._scan(["words"]):
                    frequencies.update(row["words"])
                length = sum(frequencies[LENGTHS + bit] << bit for bit in range(BITS))
                self._known = Statistics(len(self), length, frequencies)
            return self._known
        total = len(self)
        if self._length[0] != total:
            parts = [self._count(f"array_contains(words, {LENGTHS + bit})") << bit for bit in range(BITS)]
            self._length = total, sum(parts)
        counts = {token: self._count(f"array_contains(words, {token})") for token in tokens}
        return Statistics(total, self._length[1], counts)

    def candidates(
        self, vectors: np.ndarray | None, queries: Sequence[str] | csr_matrix | None, depth: int
    ) -> list[Candidates]:
        """The best documents by dot product and by words, in the order in which they were added.

        Raises:
            ValueError: More are asked for than Milvus gives.
        """
        if depth > MOST_FOUND:
            raise ValueError(f"candidates or k is {depth:,}; a search of Milvus gives up to {MOST_FOUND:,} documents.")
        found = []
        for number in range(count_queries(vectors, queries)):
            dense = {} if vectors is None else self._search("vector", vectors[number], depth)
            weights, mean = {}, 0.0
            if isinstance(queries, csr_matrix):
                weights = as_mapping(queries[number])
            elif queries is not None:
                weights, mean = self._rarities(queries[number])
            near = self._search("tokens", weights, min(MOST_FOUND, 2 * depth)) if weights else {}
            rows = self._rows([*dense.keys() | near.keys()], ["id", "number", "length", "tokens"])
            lexical = {row["key"]: self._lexical_score(row, weights, mean) for row in rows}
            wanted = [*near]
            matching = {wanted[place] for place in best(np.array([lexical.get(k, 0.0) for k in wanted]), depth)}
            rows = [row for row in rows if row["key"] in dense or row["key"] in matching]
            rows.sort(key=lambda row: row["number"])
            if vectors is not None:
                missing = [row["key"] for row in rows if row["key"] not in dense]
                for row in self._rows(missing, ["vector"]):
                    dense[row["key"]] = float(np.asarray(row["vector"], np.float32) @ vectors[number])
            rows = [row for row in rows if vectors is None or row["key"] in dense]
            scores = [
                None if given is None else np.array([values[row["key"]] for row in rows], np.float64)
                for given, values in ((vectors, dense), (queries, lexical))
            ]
            found.append(Candidates([row["id"] for row in rows], scores[0], scores[1], depth))
        return found

    def _search(self, field: str, vector: Any, limit: int) -> dict[int, float]:
        """Scores of the best documents by one of their vectors."""
        parameters = {"params": {} if self.exact or field == "tokens" else {"ef": max(SEARCH_WIDTH, limit)}}
        (hits,) = self.client.search(
            self.collection, data=[vector], anns_field=field, limit=limit, search_params=parameters
        )
        return {hit["key"]: hit["distance"] for hit in hits}

    def _rarities(self, query: str) -> tuple[dict[int, float], float]:
        """The weights of a query's words, which are BM25's logarithms, and the mean length of the documents."""
        counts = Counter(map(token_of, self.words(query)))
        total, length, frequencies = self._statistics(counts)
        rarities = {
            token: times * math.log(1 + (total - frequencies.get(token, 0) + 0.5) / (frequencies.get(token, 0) + 0.5))
            for token, times in counts.items()
        }
        return rarities, length / max(1, total)

    def _lexical_score(self, row: Mapping[str, Any], weights: Mapping[int, float], mean: float) -> float:
        """The product of weights; for BM25 what a word adds is brought from the first mean length to that of today.

        It is c / (c + penalty), of which the count c is not kept: the inverse, less 1, is penalty / c.
        """
        common = [(weights[token], weight) for token, weight in row["tokens"].items() if token in weights]
        if not mean:
            return sum(asked * weight for asked, weight in common)
        change = penalty(row["length"], mean) / penalty(row["length"], self.settings["mean"])
        return sum(asked / (1 + (1 / weight - 1) * change) for asked, weight in common)

    def close(self) -> None:
        """Ends the connection. A file stays with this process until it ends."""
        self.client.close()


def connect(uri: str, token: str | None, is_file: bool) -> Any:
    """A client of Milvus.

    Raises:
        ImportError: pymilvus, or milvus-lite for a file, is not installed.
        ConnectionError: Milvus cannot be reached.
    """
    try:
        import pymilvus

        if is_file:
            import milvus_lite  # noqa: F401 pymilvus would say so in three lines of another error
    except ImportError as error:
        raise ImportError("MilvusStore needs pymilvus and milvus-lite: pip install 'trine[milvus]'.") from error
    if is_file and (not uri.endswith(".db") or not Path(uri).absolute().parent.is_dir()):
        raise ValueError(f"uri='{uri}' must be a file whose name ends with .db, in a folder that is there.")
    try:
        return pymilvus.MilvusClient(uri=uri, token=token or os.environ.get("MILVUS_TOKEN", ""), timeout=30)
    except _milvus_error() as error:
        reason = "Another process may use it: milvus-lite serves one at a time. " if is_file else ""
        reason += hide_password(str(error), uri, token or "")
        raise ConnectionError(f"MilvusStore: '{without_password(uri)}' cannot be used. {reason}") from None


def _milvus_error() -> type[Exception]:
    from pymilvus import MilvusException

    return MilvusException
