"""Measure indexing and search of many documents beside sentence-transformers, faiss and bm25s called by hand."""

import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from trine.retrieval.fusion import fuse
from trine.retrieval.hybrid import HybridSearch
from trine.retrieval.stores.base import Store
from trine.retrieval.stores.embedded import SEARCH_WIDTH, EmbeddedStore
from trine.retrieval.stores.passwords import without_password
from trine.scripts.arguments.parsing import INPUT_ERRORS, RECORDS_HELP, parse_arguments
from trine.scripts.jobs.document_stores import opened_store
from trine.scripts.jobs.encoders import load_encoder
from trine.scripts.reports.markdown import processor, write_part
from trine.tokenization.records import BadRecords, read_examples


DEPTH, K = 300, 10  # candidates of each kind, and documents that are found
TABLE = "trine_benchmark"  # in databases; it is made anew


@dataclass
class SearchBenchmarkArguments:
    """Options of `trine benchmark search`."""

    files: list[str] = field(metadata={"help": RECORDS_HELP})
    model: str = field(metadata={"help": "Folder or Hub id of a model of sentence-transformers."})
    text_fields: list[str] = field(
        default_factory=lambda: ["text"], metadata={"help": "Names of texts in a record; each is a document."}
    )
    documents: int = field(default=100_000, metadata={"help": "Documents; those behind them are the queries."})
    queries: int = field(default=100, metadata={"help": "Queries."})
    static: bool = field(
        default=False,
        metadata={"help": "Search by means of the model's token embeddings, which take seconds, not hours."},
    )
    encoded: int = field(
        default=2_000, metadata={"help": "Documents of which the model's vectors are timed; 0: none."}
    )
    portions: int = field(default=5, metadata={"help": "Portions of these, ours and theirs in turn."})
    max_length: int = field(default=32, metadata={"help": "Tokens of a text that are read."})
    exact_stores: list[str] = field(
        default_factory=list, metadata={"help": "Databases whose exact search is compared with the embedded store's."}
    )
    graph_stores: list[str] = field(default_factory=list, metadata={"help": "Databases whose graph is measured."})
    report: str | None = field(default=None, metadata={"help": "Markdown file whose part is replaced."})

    def __post_init__(self):
        for name in ("documents", "queries", "portions", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if 0 < self.encoded < self.portions or self.encoded < 0:
            raise ValueError(f"encoded={self.encoded} must be 0, or at least portions={self.portions}.")


def read_texts(arguments: SearchBenchmarkArguments) -> tuple[dict[str, str], list[str]]:
    """Documents by their ids, and queries, which are no documents."""
    columns: list[list[str]] = [[] for _ in arguments.text_fields]

    def read(record: Any) -> None:
        for column, name in zip(columns, arguments.text_fields, strict=True):
            column.append(record[name])

    bad = BadRecords(False)
    read_examples(arguments.files, dict.fromkeys(arguments.text_fields, str), read, bad)
    bad.check()
    texts = [text for column in columns for text in column if text.strip()]
    wanted = arguments.documents + arguments.queries
    if len(texts) < wanted:
        raise ValueError(f"files hold {len(texts):,} texts; documents and queries need {wanted:,}.")
    behind = texts[arguments.documents :]
    step = len(behind) // arguments.queries
    documents = {str(place): text for place, text in enumerate(texts[: arguments.documents])}
    return documents, behind[::step][: arguments.queries]


def as_static(model: SentenceTransformer) -> SentenceTransformer:
    """A model whose vectors are means of another's token embeddings."""
    inner: Any = model.transformers_model
    table = inner.get_input_embeddings().weight.detach()
    return SentenceTransformer(modules=[StaticEmbedding(model.tokenizer, embedding_weights=table)], device="cpu")


def time_encoding(model: SentenceTransformer, texts: Sequence[str], portions: int) -> list[tuple[float, float]]:
    """Seconds of the processor for each portion, of `HybridSearch.add` and of the model's `encode_document` alone."""
    size, seconds = len(texts) // portions, []
    search = HybridSearch(model)
    for number in range(portions):
        part = [*texts[number * size : (number + 1) * size]]
        documents = {f"{number}-{place}": text for place, text in enumerate(part)}
        runs: list[Callable[[], Any]] = [
            lambda documents=documents: search.add(documents),
            lambda part=part: model.encode_document(part, show_progress_bar=False, normalize_embeddings=True),
        ]
        both = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            begun = time.process_time()
            runs[which]()
            both[which] = time.process_time() - begun
        seconds.append((both[0], both[1]))
    return seconds


class ByHand:
    """faiss' graph, which is the embedded store's, and bm25s, called as their pages show."""

    def __init__(self, texts: list[str], graph: Any):
        import bm25s

        self.bm25s, self.bm25, self.graph, self.depth = bm25s, bm25s.BM25(), graph, min(DEPTH, len(texts))
        self.bm25.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        self.graph.hnsw.efSearch = max(SEARCH_WIDTH, DEPTH)

    def __call__(self, query: str, vector: np.ndarray) -> None:
        """The best of both kinds."""
        self.graph.search(vector[None], self.depth)
        words = self.bm25s.tokenize([query], stopwords="en", show_progress=False)
        self.bm25.retrieve(words, k=self.depth, show_progress=False)


def find(store: Store, query: str, vector: np.ndarray) -> list[tuple[str, float]]:
    """Ids and scores of the best documents, with their texts, as `HybridSearch` finds them."""
    (candidates,) = store.candidates(vector[None], [query], DEPTH)
    fused = fuse(candidates, 0.7, 0.3, "min-max", K)
    store.texts([each.id for each in fused])
    return [(each.id, each.score) for each in fused]


def time_queries(
    store: Store, by_hand: ByHand, queries: Sequence[str], vectors: np.ndarray
) -> list[tuple[float, float]]:
    """Seconds of the processor for each query, ours and by hand in turn, after some to warm up."""
    seconds = []
    for place in [*range(min(5, len(queries))), *range(len(queries))]:
        query, vector, both = queries[place], vectors[place], [0.0, 0.0]
        for which in (0, 1) if place % 2 else (1, 0):
            begun = time.process_time()
            by_hand(query, vector) if which else find(store, query, vector)
            both[which] = time.process_time() - begun
        seconds.append((both[0], both[1]))
    return seconds[-len(queries) :]


def nearest(documents: np.ndarray, vectors: np.ndarray) -> list[float]:
    """The score of the last of the nearest documents to each query, by comparing all."""
    return [float(np.partition(row, -K)[-K]) for row in vectors @ documents.T]


def recall(store: Store, vectors: np.ndarray, least: Sequence[float]) -> float:
    """How many of the nearest documents a store's graph finds; equal ones take each other's place."""
    found = store.candidates(vectors, None, K)
    scores = [np.zeros(0) if each.dense is None else each.dense for each in found]
    return statistics.mean(float((each >= low - 1e-5).sum()) / K for each, low in zip(scores, least, strict=True))


def same_lists(ours: Store, theirs: Store, queries: Sequence[str], vectors: np.ndarray) -> int:
    """For how many queries both stores find the same, where documents of equal scores may change places."""
    same = 0
    for query, vector in zip(queries, vectors, strict=True):
        found, expected = find(ours, query, vector), find(theirs, query, vector)
        close = np.allclose([score for _, score in found], [score for _, score in expected], atol=1e-4)
        scores = dict(expected)
        same += close and all(abs(scores.get(id_, expected[-1][1]) - score) < 1e-4 for id_, score in found)
    return same


@contextmanager
def filled(
    address: str, model: SentenceTransformer, documents: dict[str, str], vectors: np.ndarray, exact: bool
) -> Iterator[tuple[Store, float]]:
    """A database with these documents, and the seconds that it took to fill it."""
    with opened_store(address, f"{TABLE}_{'exact' if exact else 'graph'}", exact=exact) as store:
        search = HybridSearch(model, store=store)
        if len(store):
            raise ValueError(f"store='{without_password(address)}' holds a {TABLE} of an earlier run: remove it.")
        begun, items = time.perf_counter(), [*documents.items()]
        for start in range(0, len(items), 5_000):
            search.store.put(dict(items[start : start + 5_000]), vectors[start : start + 5_000])
        yield store, time.perf_counter() - begun


def spread(pairs: Sequence[tuple[float, float]], invert: bool = False) -> str:
    """The ratio of two sums, with the smallest and largest of the parts."""
    ratios = [theirs / ours if invert else ours / theirs for ours, theirs in pairs]
    ours, theirs = (sum(pair[which] for pair in pairs) for which in (0, 1))
    return f"{theirs / ours if invert else ours / theirs:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def measure(arguments: SearchBenchmarkArguments) -> list[str]:
    """The rows of the report."""
    documents, queries = read_texts(arguments)
    model = load_encoder(arguments.model, "cpu")
    model.max_seq_length = arguments.max_length
    rows = []

    def tell(what: str, value: str) -> None:
        rows.append(f"| {what} | {value} |")
        print(rows[-1], file=sys.stderr, flush=True)

    if arguments.encoded:
        step = max(1, len(documents) // arguments.encoded)
        texts = [*documents.values()][::step][: arguments.encoded]
        pairs = time_encoding(model, texts, arguments.portions)
        tell("indexing, documents a second beside encode alone", spread(pairs, invert=True))
    model = as_static(model) if arguments.static else model
    options: dict[str, Any] = {"show_progress_bar": False, "normalize_embeddings": True}
    vectors = np.asarray(model.encode_document([*documents.values()], **options), np.float32)
    asked = np.asarray(model.encode_query(queries, **options), np.float32)
    graph, exact = EmbeddedStore(exact=False), EmbeddedStore(exact=True)
    for store in (graph, exact):
        HybridSearch(model, store=store).store.put(documents, vectors)
    begun = time.process_time()
    find(graph, queries[0], asked[0])
    tell("building graph and BM25, seconds of the processor", f"{time.process_time() - begun:.0f}")
    by_hand = ByHand([*documents.values()], graph._get_graph())
    pairs = time_queries(graph, by_hand, queries, asked)
    medians = [statistics.median(pair[which] for pair in pairs) for which in (0, 1)]
    tell("milliseconds a query, ours and by hand", " and ".join(f"{1e3 * median:.1f}" for median in medians))
    tell("median of a query beside faiss and bm25s by hand", f"{medians[0] / medians[1]:.2f}")
    fifths = [pairs[start::5] for start in range(min(5, len(pairs)))]
    parts = [(sum(ours for ours, _ in part), sum(theirs for _, theirs in part)) for part in fifths]
    tell("all queries beside faiss and bm25s by hand", spread(parts))
    expected = nearest(vectors, asked)
    tell(f"recall at {K} of the embedded graph", f"{recall(graph, asked, expected):.3f}")
    for address in arguments.exact_stores:
        with filled(address, model, documents, vectors, True) as (store, seconds):
            name = type(store).__name__
            tell(f"{name}, seconds to fill, exact", f"{seconds:.0f}")
            tell(
                f"{name}, lists of exact search as the embedded store's",
                f"{same_lists(store, exact, queries, asked)} of {len(queries)}",
            )
    for address in arguments.graph_stores:
        with filled(address, model, documents, vectors, False) as (store, seconds):
            name = type(store).__name__
            tell(f"{name}, seconds to fill with a graph", f"{seconds:.0f}")
            tell(f"recall at {K} of {name}'s graph", f"{recall(store, asked, expected):.3f}")
    return rows


def report(rows: list[str], arguments: SearchBenchmarkArguments, command: str) -> str:
    """The part of the Markdown file."""
    kind = "means of the model's token embeddings" if arguments.static else "the model's vectors"
    return f"""## Search of {arguments.documents:,} documents

Made on {date.today()} by `{command}`: {processor()}, one thread. Texts are cut at {arguments.max_length}
tokens; documents are searched by {kind}. Ratios have the smallest and largest of their parts; the time of a query
is without its encoding.

| what | measured |
|---|---|
{chr(10).join(rows)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine benchmark search` with these arguments, by default the process's."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    (arguments,) = parse_arguments([SearchBenchmarkArguments], argv, command="benchmark search", description=__doc__)
    torch.set_num_threads(1)
    try:
        rows = measure(arguments)
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"trine: {error}")
    text = report(rows, arguments, without_password(shlex.join(["trine", "benchmark", "search", *words])))
    if arguments.report:
        write_part(Path(arguments.report), text)
    print(text)


if __name__ == "__main__":
    main()
