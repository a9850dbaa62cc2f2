"""Documents in PostgreSQL with pgvector: vectors by its operators, BM25 from a table of words."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..fusion import Candidates
from ..words import Words
from .base import Store, count_queries
from .passwords import hide_password


NAME = "[A-Za-z][A-Za-z0-9_]{0,49}"
MOST_DIMENSIONS = 2_000  # that pgvector's graph takes
SEARCH_WIDTH, WIDEST = 200, 1_000  # candidates that a walk through the graph keeps, and the most that pgvector takes

MOST_WEIGHTS = 16_000  # of a document, that a sparse vector of pgvector holds

CREATE = """
CREATE TABLE {documents} (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE, text text NOT NULL, length integer NOT NULL, vector vector({size}) NOT NULL);
"""
CREATE_LEXICAL = {
    "bm25": """
CREATE INDEX ON {documents} (length);
CREATE TABLE {words} (
    word text NOT NULL, document bigint NOT NULL REFERENCES {documents} ON DELETE CASCADE, count integer NOT NULL,
    PRIMARY KEY (word, document));
CREATE INDEX ON {words} (document);
""",
    "sparse": "ALTER TABLE {documents} ADD COLUMN weights sparsevec({tokens}) NOT NULL;\n",
}
GRAPH = "CREATE INDEX ON {documents} USING hnsw (vector vector_ip_ops)"
NEAREST = "near AS (SELECT number FROM {documents} ORDER BY vector <#> %(vector)s LIMIT %(depth)s)"
# BM25 as of `retrieval.bm25`: Lucene's, k1 = 1.5, b = 0.75.
BM25 = """scored AS (
    SELECT document AS number, sum(times * ln(1 + (total - df + 0.5) / (df + 0.5))
        * count / (count + 1.5 * (0.25 + 0.75 * length / mean))) AS score
    FROM {words}
        JOIN (SELECT word, count(*)::float8 AS df FROM {words} WHERE word = ANY(%(words)s) GROUP BY word) AS found
            USING (word)
        JOIN unnest(%(words)s::text[], %(times)s::integer[]) AS query (word, times) USING (word)
        JOIN {documents} ON number = document
        CROSS JOIN (SELECT count(*)::float8 AS total, avg(length)::float8 AS mean FROM {documents}) AS statistics
    GROUP BY document)"""
WEIGHTED = "scored AS MATERIALIZED (SELECT number, -(weights <#> %(weights)s) AS score FROM {documents})"
MATCHING = "matching AS (SELECT number FROM scored WHERE score > 0 ORDER BY score DESC, number LIMIT %(depth)s)"
# What a query gets of each kind of score, or in its place: a part of the query, names of lists, a column, a join.
DENSE = ([NEAREST], ["near"], "-(vector <#> %(vector)s)", "")
LEXICAL = {
    name: ([scored, MATCHING], ["matching"], "coalesce(score, 0)", "LEFT JOIN scored USING (number)")
    for name, scored in (("bm25", BM25), ("sparse", WEIGHTED))
}
NONE = ([], [], "NULL", "")


class PostgresStore(Store):
    """A store in tables of a database, which several processes and machines can use at once.

    Every change is one transaction; changes wait for each other, searches do not. PostgreSQL's own `ts_rank` is not
    BM25, since it does not count in how many documents a word is; so the words lie in a table of their own, from which
    a query computes BM25. Weights of a model (`lexical="sparse"`) are a sparse vector of pgvector, and all compared.

    Args:
        database: Where it is, such as `postgresql://user:password@host/name`. It needs pgvector's extension `vector`,
            or the right to create it.
        table: Name of the table of documents, and of those for words and settings, which get `_words` and
            `_settings` behind it. They are made with the first document.
        exact: Of new tables: whether all vectors are compared. Otherwise pgvector walks a graph (HNSW).
        chinese: Of new tables: as for `Words`.

    Raises:
        ImportError: psycopg or pgvector is not installed.
        ConnectionError: The database cannot be reached.
        ValueError: The name of the table cannot be used, or the tables were made with other options.
    """

    def __init__(
        self, database: str, table: str = "documents", *, exact: bool | None = None, chinese: str | None = None
    ):
        try:
            import psycopg
            from pgvector.psycopg import register_vector
        except ImportError as error:
            raise ImportError("PostgresStore needs psycopg and pgvector: pip install 'trine[postgres]'.") from error
        if not re.fullmatch(NAME, table):
            raise ValueError(f"table={table!r} must be at most 50 letters, digits and underscores, a letter first.")
        self.table = table
        try:
            self.connection: Any = psycopg.connect(database, autocommit=True)
            self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            reason = hide_password(" ".join(str(error).split()), database)
            raise ConnectionError(f"PostgresStore: the database cannot be used: {reason}") from None
        register_vector(self.connection)
        self.settings = {"exact": exact is not False, "chinese": chinese or "bigrams"}
        self._read_settings()
        for name, value in (("exact", exact), ("chinese", chinese)):
            if value not in (None, self.settings[name]):
                raise ValueError(f"{name}={value!r} differs from {self.settings[name]!r}, which table={table!r} has.")
        self.words = Words(self.settings["chinese"])

    def _sql(self, query: str) -> Any:
        """A query in which {documents}, {words} and {settings} are tables, {size} and {tokens} sizes of vectors."""
        from psycopg import sql

        names = {"documents": self.table, "words": f"{self.table}_words", "settings": f"{self.table}_settings"}
        tables = {name: sql.Identifier(table) for name, table in names.items()}
        encoder = self.encoder or {}
        sizes = {"size": encoder.get("dimension", 0), "tokens": (encoder.get("sparse") or {}).get("dimension", 0)}
        literals = {name: sql.Literal(size) for name, size in sizes.items()}
        return sql.SQL(query).format(**tables, **literals)  # pyright: ignore[reportArgumentType] constants of this file

    def _run(self, query: str, **values: Any) -> Any:
        return self.connection.execute(self._sql(query), values or None)

    def _read_settings(self) -> None:
        if self._run("SELECT to_regclass(%(name)s)", name=f"{self.table}_settings").fetchone()[0] is None:
            return
        saved = self._run("SELECT settings FROM {settings}").fetchone()[0]
        self.encoder = saved.pop("encoder")
        self.settings = saved

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A transaction, for which other changes wait."""
        with self.connection.transaction():
            self._run("LOCK TABLE {documents} IN SHARE ROW EXCLUSIVE MODE")
            yield

    @property
    def exact(self) -> bool:
        """Whether all vectors are compared."""
        return bool(self.settings["exact"])

    def set_encoder(self, encoder: Mapping[str, Any]) -> None:
        """Makes the tables, unless another process has just made them; then it keeps what that has written.

        Raises:
            ValueError: A graph of vectors as long as the model's is not possible.
        """
        if not self.exact and encoder["dimension"] > MOST_DIMENSIONS:
            raise ValueError(
                f"exact=False: pgvector's graph takes vectors of up to {MOST_DIMENSIONS:,} numbers, and the model's "
                f"have {encoder['dimension']:,}. exact=True compares them all."
            )
        self.encoder = dict(encoder)
        with self.connection.transaction():
            self._run("SELECT pg_advisory_xact_lock(hashtext(%(name)s))", name=self.table)
            self._run("CREATE TABLE IF NOT EXISTS {settings} (settings jsonb NOT NULL)")
            if self._run("SELECT count(*) FROM {settings}").fetchone()[0] == 0:
                content = json.dumps({**self.settings, "encoder": self.encoder})
                self._run("INSERT INTO {settings} VALUES (%(content)s)", content=content)
                self._run(CREATE + CREATE_LEXICAL[self.lexical] + ("" if self.exact else GRAPH))
        self._read_settings()

    def __len__(self) -> int:
        return self._run("SELECT count(*) FROM {documents}").fetchone()[0]

    @property
    def ids(self) -> list[str]:
        """The documents, in the order in which they were added."""
        return [id_ for (id_,) in self._run("SELECT id FROM {documents} ORDER BY number")]

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts of those of these documents that are there."""
        return dict(self._run("SELECT id, text FROM {documents} WHERE id = ANY(%(ids)s)", ids=[*ids]).fetchall())

    def put(self, documents: Mapping[str, str], vectors: np.ndarray, weights: csr_matrix | None = None) -> None:
        """Adds documents; those that take the place of others go to the end.

        Raises:
            ValueError: A text has the character of code 0, which PostgreSQL cannot keep, or more weights than pgvector
                can.
        """
        for id_, text in documents.items():
            if "\0" in id_ or "\0" in text:
                raise ValueError(f"documents[{id_!r}] holds the character of code 0, which PostgreSQL cannot keep.")
        is_sparse = weights is not None
        counts = [Counter([] if is_sparse else self.words(text)) for text in documents.values()]
        rows: list[tuple[Any, ...]] = [
            (id_, text, count.total(), vector)
            for (id_, text), count, vector in zip(documents.items(), counts, vectors, strict=True)
        ]
        columns = "id, text, length, vector"
        if is_sparse:
            columns += ", weights"
            rows = [(*row, vector) for row, vector in zip(rows, sparse_vectors(weights, [*documents]), strict=True)]
        values = ", ".join(["%s"] * len(columns.split(", ")))
        insert = self._sql(f"INSERT INTO {{documents}} ({columns}) VALUES ({values})")
        with self._changing(), self.connection.cursor() as cursor:
            self._delete([*documents])
            cursor.executemany(insert, rows)
            if is_sparse:
                return
            found = self._run("SELECT id, number FROM {documents} WHERE id = ANY(%(ids)s)", ids=[*documents])
            numbers = dict(found.fetchall())
            with cursor.copy(self._sql("COPY {words} FROM STDIN")) as copy:
                for id_, count in zip(documents, counts, strict=True):
                    for word, times in count.items():
                        copy.write_row((word, numbers[id_], times))

    def remove(self, ids: Sequence[str]) -> None:
        """Removes documents."""
        with self._changing():
            self._delete(ids)

    def _delete(self, ids: Sequence[str]) -> None:
        self._run("DELETE FROM {documents} WHERE id = ANY(%(ids)s)", ids=[*ids])

    def candidates(
        self, vectors: np.ndarray | None, queries: Sequence[str] | csr_matrix | None, depth: int
    ) -> list[Candidates]:
        """The best documents by dot product and by words, in the order in which they were added."""
        kinds = [NONE if vectors is None else DENSE, NONE if queries is None else LEXICAL[self.lexical]]
        parts, lists, columns, joins = ([kind[place] for kind in kinds] for place in range(4))
        chosen = " UNION ".join(f"SELECT number FROM {name}" for names in lists for name in names)
        query = (
            f"WITH {', '.join(part for each in parts for part in each)} SELECT id, {', '.join(columns)} "
            f"FROM {{documents}} {' '.join(joins)} WHERE number IN ({chosen}) ORDER BY number"
        )
        found = []
        with self.connection.transaction():
            self._run("SELECT set_config('hnsw.iterative_scan', 'strict_order', true)")
            width = str(min(WIDEST, max(SEARCH_WIDTH, depth)))
            self._run("SELECT set_config('hnsw.ef_search', %(width)s, true)", width=width)
            for number in range(count_queries(vectors, queries)):
                values: dict[str, Any] = {"depth": depth}
                if vectors is not None:
                    values["vector"] = vectors[number]
                if isinstance(queries, csr_matrix):
                    values["weights"] = sparse_vectors(queries[number], ["the query"])[0]
                elif queries is not None:
                    count = Counter(self.words(queries[number]))
                    values |= {"words": [*count], "times": [*count.values()]}
                found.append(as_candidates(self._run(query, **values).fetchall(), depth))
        return found

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()


def sparse_vectors(weights: Any, ids: Sequence[str]) -> list[Any]:
    """Rows of weights as pgvector takes them."""
    from pgvector import SparseVector

    sizes = np.diff(weights.indptr)
    if sizes.max(initial=0) > MOST_WEIGHTS:
        row = int(sizes.argmax())
        raise ValueError(f"{ids[row]!r} has {sizes[row]:,} weights; pgvector keeps up to {MOST_WEIGHTS:,}.")
    return [SparseVector(weights[row].tocoo()) for row in range(weights.shape[0])]


def as_candidates(rows: Sequence[tuple[str, Any, Any]], depth: int) -> Candidates:
    """Rows of id and both scores as arrays; a kind of score that is NULL is left out."""
    ids, dense, lexical = zip(*rows, strict=True) if rows else ((), (), ())
    dense, lexical = (None if values[:1] == (None,) else np.array(values, np.float64) for values in (dense, lexical))
    return Candidates(ids, dense, lexical, depth)
