"""Searches in several ways; a run holds, for each query, the scores of the best documents by their ids."""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from trine.retrieval.bm25 import BM25
from trine.retrieval.fusion import best, fuse
from trine.retrieval.hybrid import HybridSearch
from trine.retrieval.reranking import Ranked, Reranker, mix, rank_again
from trine.retrieval.stores.embedded import EmbeddedStore
from trine.retrieval.words import Words
from trine.scripts.jobs.retrieval_data import Judged


Run = dict[str, dict[str, float]]
BLOCK = 256  # queries between two steps of progress
Item = TypeVar("Item")


def in_blocks(items: Sequence[Item], what: str, size: int = BLOCK) -> Iterator[Sequence[Item]]:
    """Yields blocks of the items, and shows how far it is."""
    with tqdm(total=len(items), desc=what, unit="query", leave=False, disable=None) as bar:
        for start in range(0, len(items), size):
            yield items[start : start + size]
            bar.update(min(size, len(items) - start))


def bm25_run(judged: Judged, words: Words, depth: int) -> Run:
    """The documents with a word of a query, by BM25."""
    index, ids = BM25.of(judged.documents.values(), words), [*judged.documents]
    run: Run = {}
    for block in in_blocks([*judged.queries.items()], "BM25"):
        for id_, query in block:
            scores = index.scores(words(query))
            run[id_] = falling((ids[place], scores[place]) for place in best(scores, depth) if scores[place] > 0)
    return run


def encoder_runs(
    name: str,
    model: SentenceTransformer,
    judged: Judged,
    depth: int,
    *,
    weights: tuple[float, float] | None,
    fusion: str = "min-max",
    chinese: str = "bigrams",
    batch_size: int = 32,
) -> dict[str, Run]:
    """The nearest documents by a model's vectors, all of which are compared, and those of hybrid search.

    Args:
        name: What the model is called.
        model: Encodes queries and documents.
        judged: These.
        depth: How many documents are found.
        weights: Of vectors and words in hybrid search; None leaves it out.
        fusion: How its scores are made comparable.
        chinese: As for `Words`.
        batch_size: Texts that are encoded at a time.
    """
    options = {"store": EmbeddedStore(exact=True, chinese=chinese), "batch_size": batch_size, "fusion": fusion}
    dense_weight, lexical_weight = weights or (1.0, 0.0)
    search = HybridSearch(model, dense_weight=dense_weight, lexical_weight=lexical_weight, **options)
    print(f"{name}: {len(judged.documents):,} documents, {len(judged.queries):,} queries", file=sys.stderr, flush=True)
    search.add(judged.documents, show_progress=sys.stderr.isatty())
    both = f"{name} + BM25"
    runs: dict[str, Run] = {name: {}} | ({both: {}} if weights else {})
    for block in in_blocks([*judged.queries.items()], name):
        candidates = search._candidates([query for _, query in block], depth)
        for (id_, _), each in zip(block, candidates, strict=True):
            assert each.dense is not None
            nearest: list[int] = best(each.dense, depth).tolist()
            runs[name][id_] = falling((each.ids[place], each.dense[place]) for place in nearest)
            if weights:
                runs[both][id_] = falling((hit.id, hit.score) for hit in fuse(each, *weights, fusion, depth))
    return runs


def index_run(
    name: str, search: HybridSearch, judged: Judged, depth: int, foreign: dict[str, str] | None = None
) -> dict[str, Run]:
    """The documents that an index finds, under the ids that they have in `judged`; others count as not relevant.

    Of chunks the best one counts for its document; as many are looked for as `depth` documents have on average.

    Args:
        name: What it is called.
        search: The index.
        judged: Queries and documents.
        depth: How many documents are found.
        foreign: Gets the texts of those that are not in `judged`.

    Raises:
        ValueError: The index holds no relevant document.
    """
    ids_here = {text: id_ for id_, text in judged.documents.items()} if judged.by_text else None
    texts = search.texts(search.ids)
    depth *= math.ceil(len(search) / max(1, len(texts)))
    names = {id_: id_ if ids_here is None else ids_here.get(text, f"index:{id_}") for id_, text in texts.items()}
    wanted = {id_ for found in judged.qrels.values() for id_, judgment in found.items() if judgment > 0}
    lacking = wanted - {*names.values()}
    if lacking == wanted:
        what = "with the text of a document" if judged.by_text else "with the id of a document"
        raise ValueError(f"'{name}' holds none of the {len(wanted):,} relevant documents: none {what}.")
    if lacking:
        message = f"{len(lacking):,} of {len(wanted):,} relevant documents are not there and cannot be found"
        print(f"{name}: {message}", file=sys.stderr)
    if foreign is not None:
        foreign |= {names[id_]: text for id_, text in texts.items() if names[id_] not in judged.documents}
    run: Run = {}
    for block in in_blocks([*judged.queries.items()], name):
        for (id_, _), hits in zip(block, search.search_all([query for _, query in block], depth), strict=True):
            run[id_] = falling((names[hit.document or hit.id], hit.score) for hit in hits)
    return {name: run}


def ranked_again(
    reranker: Reranker, name: str, run: Run, queries: Mapping[str, str], texts: Mapping[str, str], candidates: int
) -> dict[str, list[Ranked]]:
    """The first documents of a run for each query, ranked by another model.

    Args:
        reranker: Ranks texts for a query.
        name: What it is called.
        run: The documents that were found.
        queries: Their queries.
        texts: The documents' texts.
        candidates: How many of the first are ranked.
    """
    ranked: dict[str, list[Ranked]] = {}
    for block in in_blocks([*run.items()], name, size=8):
        for id_, found in block:
            ranked[id_] = rank_again(reranker, queries[id_], [texts[each] for each in [*found][:candidates]])
    return ranked


def mixed_run(run: Run, ranked: Mapping[str, list[Ranked]], weight: float, fusion: str) -> Run:
    """A run whose first documents stand as a reranker and the search together have them; the others stay behind.

    Args:
        run: The documents that were found.
        ranked: As `ranked_again` returns them.
        weight: Of the reranker, as for `mix`.
        fusion: How the two scores are made comparable.
    """
    mixed: Run = {}
    for id_, found in run.items():
        ids, count = [*found], len(ranked[id_])
        rows = mix(ranked[id_], [*found.values()][:count], weight, fusion)
        first = [(ids[each.place], each.score if each.total is None else each.total) for each in rows]
        lowest = min((score for _, score in first), default=0.0)
        mixed[id_] = falling([*first, *((each, lowest - rank) for rank, each in enumerate(ids[count:], 1))])
    return mixed


def falling(hits: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """The scores of documents, the best first, each below the one before it in float32, as trec_eval reads them.

    Programs order equal scores in different ways; here they keep the order of the search. Of a document that is there
    twice the first place counts.
    """
    scores: dict[str, float] = {}
    last = np.float32(np.inf)
    for id_, score in hits:
        if id_ not in scores:
            last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
            scores[id_] = float(last)
    return scores


def parse_metrics(names: Sequence[str]) -> list[Any]:
    """The measures of ir-measures with these names.

    Raises:
        ValueError: There is none of a name, its numbers cannot be read, or its cutoff is below 1.
    """
    import ir_measures
    from ir_measures.measures import registry

    measures = []
    known = {name.lower(): name for name in registry}
    for place, text in enumerate(names):
        name, mark, rest = text.partition("@")
        usual = known.get(name.lower(), name)
        try:
            measure = ir_measures.parse_measure(usual + mark + rest)
            if measure.params.get("cutoff", 1) < 1:
                raise ValueError(f"its cutoff {measure.params['cutoff']} must be at least 1")
            ir_measures.evaluator([measure], {"q": {"d": 1}})
        except (NameError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"metrics[{place}]={text!r} is no measure of ir-measures that can be computed here, such as nDCG@10, "
                f"R@100, RR@10, AP, P@5, Success@1: {error}."
            ) from error
        measures.append(measure)
    return measures


def measure_runs(
    runs: Mapping[str, Run], qrels: Mapping[str, Mapping[str, int]], measures: Sequence[Any]
) -> dict[str, dict[str, np.ndarray]]:
    """For each run and measure, the value of every query (Q,), in the order of `qrels`, by ir-measures."""
    import ir_measures

    evaluator = ir_measures.evaluator([*measures], {id_: dict(found) for id_, found in qrels.items()})
    measured = {}
    for name, run in runs.items():
        values = {str(measure): dict.fromkeys(qrels, 0.0) for measure in measures}
        for each in evaluator.iter_calc({id_: found for id_, found in run.items() if found}):
            values[str(each.measure)][each.query_id] = float(each.value)
        measured[name] = {each: np.array([*values[each].values()]) for each in values}
    return measured


def write_run(path: Path, name: str, run: Run) -> None:
    """Writes a run as trec_eval reads it: query, Q0, document, rank, score and the name of the run in a line."""
    tag = "_".join(name.split())
    lines: list[str] = []
    for query, found in run.items():
        for rank, (id_, score) in enumerate(found.items(), 1):
            lines.append(f"{query} Q0 {id_} {rank} {score:.9g} {tag}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def check_run_ids(names: Iterable[str]) -> None:
    """Raises a ValueError for an id with white space, which a run file cannot hold."""
    if bad := next((name for name in names if len(name.split()) != 1), None):
        raise ValueError(f"save_runs: the id {bad!r} has white space, which a run file of TREC cannot hold.")


def call_them(names: Sequence[str]) -> dict[str, str]:
    """Short names of folders and ids, each unlike the others: the last part, or all of it where that is not enough."""
    short = [Path(name).name or name for name in names]
    return {name: each if short.count(each) == 1 else name for name, each in zip(names, short, strict=True)}
