"""Search an index of `trine index` by vectors and words."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from trine.configuration.patterns import check_choice
from trine.retrieval.checks import check_count
from trine.retrieval.computing import AUTO, DTYPE_HELP, DTYPES
from trine.retrieval.fusion import FUSIONS
from trine.retrieval.hits import Hit
from trine.retrieval.hybrid import HybridSearch
from trine.retrieval.listwise import METHODS
from trine.retrieval.reranking import RERANK_WEIGHT, Reranker, check_rerank_weight, load_reranker
from trine.retrieval.words import Words
from trine.scripts.arguments.devices import check_device
from trine.scripts.arguments.parsing import INPUT_ERRORS, parse_arguments
from trine.scripts.arguments.text import read_standard_input, text_field
from trine.scripts.jobs.document_stores import STORE_HELP, STORE_NAME_HELP, load_sparse_encoder, opened_store
from trine.scripts.jobs.encoders import load_encoder


SHOWN = 240  # characters of a text
RERANK_WEIGHT_HELP = (
    "Weight of the reranker's score; the search's has the rest of 1, both made comparable by its fusion. With 1 the "
    "reranker alone decides."
)
BOLD, PLAIN = "\033[1m", "\033[0m"  # of a terminal


@dataclass
class SearchArguments:
    """Options of `trine search`."""

    text: list[str] = text_field("One or more queries, which may stand first, without the option's name.")
    index: str | None = field(default=None, metadata={"help": "Folder that `trine index` wrote."})
    store: str | None = field(default=None, metadata={"help": f"In place of a folder, {STORE_HELP}"})
    store_name: str = field(default="documents", metadata={"help": STORE_NAME_HELP})
    k: int = field(default=10, metadata={"help": "Documents for each query.", "aliases": ["-k"]})
    model: str | None = field(
        default=None, metadata={"help": "Where the model that made the index is now, if it was moved."}
    )
    sparse_model: str | None = field(default=None, metadata={"help": "The same of a model of weights of tokens."})
    dense_weight: float | None = field(default=None, metadata={"help": "Weight of vectors. By default the index's."})
    lexical_weight: float | None = field(default=None, metadata={"help": "Weight of words. By default the index's."})
    fusion: str | None = field(
        default=None,
        metadata={"help": f"How scores are made comparable, one of {', '.join(FUSIONS)}. By default the index's."},
    )
    rerank: str | None = field(
        default=None,
        metadata={
            "help": "What ranks the best again: folder or Hub id of a CrossEncoder, as trine train-reranker makes, or "
            "of a causal language model, which ranks them as a list."
        },
    )
    rerank_candidates: int = field(default=50, metadata={"help": "How many of the best are ranked again."})
    rerank_weight: float = field(default=RERANK_WEIGHT, metadata={"help": RERANK_WEIGHT_HELP})
    rerank_window: int = field(
        default=20,
        metadata={"help": "How many of them a causal language model orders at once, in steps of half of it."},
    )
    rerank_method: str = field(
        default="generate",
        metadata={"help": "How it does: 'generate' lets it write their order; 'logits' reads it from one pass."},
    )
    explain: bool = field(
        default=False, metadata={"help": "Show what vectors and words add to each score, and mark the words found."}
    )
    json: bool = field(default=False, metadata={"help": "Print a line of JSON for each query, with whole texts."})
    device: str | None = field(default=None, metadata={"help": "Such as cpu or cuda:1. By default the accelerator."})
    dtype: str = field(default=AUTO, metadata={"help": DTYPE_HELP})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        check_device(self.device)
        check_choice("dtype", self.dtype, DTYPES)
        check_count("k", self.k)
        if (self.index is None) == (self.store is None):
            raise ValueError("Name either index, a folder, or store, a database.")
        check_count("rerank_candidates", self.rerank_candidates)
        check_rerank_weight(self.rerank_weight)
        check_choice("rerank_method", self.rerank_method, METHODS)
        if self.rerank_window < 2:
            raise ValueError(f"rerank_window={self.rerank_window} must be at least 2.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine search` with these arguments, by default the process's."""
    argv = queries_first(list(sys.argv[1:] if argv is None else argv))
    (arguments,) = parse_arguments([SearchArguments], argv, command="search", description=__doc__)
    queries = arguments.text or [read_standard_input("a query")]
    try:
        reranker = load_named_reranker(arguments)
        with opened_index(arguments) as search:
            options = {name: getattr(arguments, name) for name in ("rerank_candidates", "rerank_weight")}
            found = search.search_all(queries, arguments.k, rerank=reranker, **options)
            words = search.store.words
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"trine: {error}")
    for query, hits in zip(queries, found, strict=True):
        if arguments.json:
            print(json.dumps(as_record(query, hits, words, arguments.explain), ensure_ascii=False))
        else:
            print(as_text(query, hits, words, arguments.explain, len(queries) > 1))


def load_named_reranker(arguments: SearchArguments) -> Reranker | None:
    """The reranker that is named, if one is."""
    if arguments.rerank is None:
        return None
    window = arguments.rerank_window
    return load_reranker(
        arguments.rerank,
        arguments.device,
        arguments.trust_remote_code,
        arguments.dtype,
        window=window,
        step=window // 2,
        method=arguments.rerank_method,
    )


@contextmanager
def opened_index(arguments: SearchArguments) -> Iterator[HybridSearch]:
    """The index in a folder or a database, with the models that made it."""
    options: Any = {name: getattr(arguments, name) for name in ("dense_weight", "lexical_weight", "fusion")}
    where: Any = {name: getattr(arguments, name) for name in ("device", "trust_remote_code", "dtype")}
    load, load_sparse = partial(load_encoder, **where), partial(load_sparse_encoder, **where)
    options["sparse_model"] = load_sparse(arguments.sparse_model) if arguments.sparse_model else load_sparse
    with ExitStack() as stack:
        index: Any = arguments.index
        if arguments.store is not None:
            if arguments.store.endswith(".db") and not Path(arguments.store).exists():
                raise ValueError(f"store='{arguments.store}' is not there. `trine index` makes one.")
            index = stack.enter_context(opened_store(arguments.store, arguments.store_name))
            if index.encoder is None:
                raise ValueError(
                    f"store_name={arguments.store_name!r}: the store has no such index. `trine index` makes one."
                )
        yield HybridSearch.load(index, load(arguments.model) if arguments.model else load, **options)


def queries_first(argv: list[str]) -> list[str]:
    """Lets queries stand first, without the name of the option."""
    count = next((place for place, word in enumerate(argv) if word.startswith("-")), len(argv))
    return ["--text", *argv[:count], *argv[count:]] if count else argv


def as_record(query: str, hits: Sequence[Hit], words: Words, explain: bool) -> dict[str, Any]:
    """A record for JSON: a query and its hits."""
    records = []
    for hit in hits:
        record: dict[str, Any] = {"id": hit.id, "score": hit.score, "text": hit.text}
        given = ("document", "span", "rerank", "rerank_part", "mixed")
        record |= {name: getattr(hit, name) for name in given if getattr(hit, name) is not None}
        if explain:
            parts = ("dense", "lexical", "dense_part", "lexical_part")
            record |= {name: getattr(hit, name) for name in parts}
            record["words"] = words_found(query, hit.text, words)
        records.append(record)
    return {"query": query, "hits": records}


def words_found(query: str, text: str, words: Words) -> list[str]:
    """The words of a query that a text has, in the order of the query."""
    there = {*words(text)}
    return [word for word in dict.fromkeys(words(query)) if word in there]


def as_text(query: str, hits: Sequence[Hit], words: Words, explain: bool, name_query: bool) -> str:
    """Lines for a reader: the hits of a query."""
    lines = [f"{query}:"] if name_query else []
    for rank, hit in enumerate(hits, 1):
        why = f"{reranked(hit)}{explained(query, hit, words)}" if explain else ""
        lines.append(f"{rank:>2}. {hit.id}  {hit.ranked_by:.4f}{why}")
        lines.append(f"    {marked(query, hit.text, words) if explain else cut(hit.text)}")
    return "\n".join([*lines, ""] if hits else [*lines, "Nothing is found."])


def reranked(hit: Hit) -> str:
    """The sum of reranker and search, or the score of the reranker alone, up to the score before it."""
    if hit.mixed is not None and hit.rerank_part is not None:
        rest = hit.mixed - hit.rerank_part
        return (
            f" = {hit.rerank_part:.4f} of the reranker ({hit.rerank:.4f}) + {rest:.4f} of the search, {hit.score:.4f}"
        )
    return "" if hit.rerank is None else f" of the reranker, before it {hit.score:.4f}"


def explained(query: str, hit: Hit, words: Words) -> str:
    """The sum that a score is."""
    cosine = "not asked" if hit.dense is None else f"{hit.dense:.4f}"
    by = ", ".join(words_found(query, hit.text, words)) or "other tokens"  # of a model's weights
    lexical = f"{hit.lexical:.4f} by {by}" if hit.lexical else "none"
    return f" = {hit.dense_part:.4f} of vectors ({cosine}) + {hit.lexical_part:.4f} of words ({lexical})"


def marked(query: str, text: str, words: Words) -> str:
    """The part of a text around the first word of the query, with these words in bold, or between stars."""
    wanted, begin, end = {*words(query)}, *((BOLD, PLAIN) if sys.stdout.isatty() else ("**", "**"))
    spans = [(start, stop) for word, start, stop in words.spans(text) if word in wanted]
    first = max(0, spans[0][0] - SHOWN // 4) if spans else 0
    shown, last = "", first
    for start, stop in joined(spans):
        if start < first + SHOWN:
            shown, last = shown + text[last:start] + begin + text[start:stop] + end, stop
    rest = text[last : max(last, first + SHOWN)]
    more = "…" if last + len(rest) < len(text) else ""
    return " ".join(f"{'…' if first else ''}{shown}{rest}{more}".split())


def joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans without overlaps: those that touch are one."""
    whole: list[tuple[int, int]] = []
    for start, stop in spans:
        if whole and start <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(stop, whole[-1][1]))
        else:
            whole.append((start, stop))
    return whole


def cut(text: str) -> str:
    """The first characters of a text, on one line."""
    return " ".join(text[:SHOWN].split()) + ("…" if len(text) > SHOWN else "")


if __name__ == "__main__":
    main()
