"""Compare ways of searching, BM25, vectors and both, on judged queries: nDCG, recall and MRR with their intervals."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trine.configuration.patterns import check_choice
from trine.retrieval.checks import check_count
from trine.retrieval.computing import AUTO, DTYPE_HELP, DTYPES
from trine.retrieval.fusion import FUSIONS, check_fusion
from trine.retrieval.reranking import RERANK_WEIGHT, check_rerank_weight, load_reranker
from trine.retrieval.words import CHINESE, Words
from trine.scripts.arguments.devices import check_device
from trine.scripts.arguments.parsing import INPUT_ERRORS, RECORDS_HELP, parse_arguments
from trine.scripts.jobs.document_stores import STORE_HELP, STORE_NAME_HELP
from trine.scripts.jobs.encoders import load_encoder
from trine.scripts.jobs.retrieval_data import Judged, find_beir_files, read_beir, read_pairs, write_beir
from trine.scripts.jobs.retrieval_runs import (
    Run,
    bm25_run,
    call_them,
    check_run_ids,
    encoder_runs,
    index_run,
    measure_runs,
    mixed_run,
    parse_metrics,
    ranked_again,
    write_run,
)
from trine.scripts.search import RERANK_WEIGHT_HELP, SearchArguments, opened_index
from trine.tokenization.records import BadRecords
from trine.training.measures.intervals import bootstrap_interval
from trine.training.run.resuming import check_writable


@dataclass
class RetrievalArguments:
    """Options of `trine evaluate-retrieval`."""

    files: list[str] = field(
        default_factory=list,
        metadata={"help": f"Pairs, as for trine train-embeddings; or --data_folder. {RECORDS_HELP}"},
    )
    data_folder: str | None = field(
        default=None, metadata={"help": "Folder of BEIR's layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv."}
    )
    split: str = field(default="test", metadata={"help": "Name of the qrels in 'data_folder'."})
    anchor_field: str = field(default="anchor", metadata={"help": "Name of the query in a pair."})
    positive_field: str = field(default="positive", metadata={"help": "Name of the text that it should find."})
    negative_field: str | None = field(
        default=None, metadata={"help": "Name of a text that it should not find, if there is one in each record."}
    )
    models: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders or Hub ids of models of sentence-transformers, or of encoders or decoders with their "
            "tokenizers: each is a column by vectors, and one with BM25."
        },
    )
    index: str | None = field(default=None, metadata={"help": "Folder that `trine index` wrote: one more column."})
    store: str | None = field(default=None, metadata={"help": f"In place of a folder, {STORE_HELP}"})
    store_name: str = field(default="documents", metadata={"help": STORE_NAME_HELP})
    rerank: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a CrossEncoder, or of a causal language model, that ranks the best of the "
            "last column again: one more column."
        },
    )
    rerank_candidates: int = field(default=50, metadata={"help": "How many of the best it ranks."})
    rerank_weight: list[float] = field(
        default_factory=lambda: [RERANK_WEIGHT],
        metadata={"help": f"{RERANK_WEIGHT_HELP} Of several, each is a column."},
    )
    bm25: bool = field(default=True, metadata={"help": "A column of BM25."})
    hybrid: bool = field(default=True, metadata={"help": "A column of hybrid search for each model."})
    dense_weight: float = field(default=0.7, metadata={"help": "Weight of vectors in hybrid search."})
    lexical_weight: float = field(default=0.3, metadata={"help": "Weight of words in hybrid search."})
    fusion: str = field(
        default="min-max", metadata={"help": f"How its scores are made comparable, one of {', '.join(FUSIONS)}."}
    )
    chinese: str = field(
        default="bigrams", metadata={"help": f"How BM25 splits Chinese and Japanese, one of {', '.join(CHINESE)}."}
    )
    metrics: list[str] = field(
        default_factory=lambda: ["nDCG@10", "R@10", "R@100", "RR@10"],
        metadata={"help": "Measures of ir-measures, such as nDCG@10, R@100 (recall), RR@10 (MRR), AP, Success@1."},
    )
    depth: int | None = field(
        default=None,
        metadata={"help": "Documents that are looked at for each query. By default as the measures do, at least 100."},
    )
    max_queries: int | None = field(
        default=None, metadata={"help": "Ask the first queries only; all documents stay. By default all are asked."}
    )
    batch_size: int = field(default=32, metadata={"help": "Texts that are encoded at a time."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for metrics.json and a card, README.md. By default they are printed."}
    )
    save_runs: bool = field(
        default=False,
        metadata={"help": "Write what each system found to output_dir/runs, for trec_eval; of pairs the data, too."},
    )
    json: bool = field(default=False, metadata={"help": "Print metrics.json instead of the table."})
    skip_bad_records: bool = field(
        default=False, metadata={"help": "Leave out records that cannot be used, with a warning, instead of stopping."}
    )
    device: str | None = field(default=None, metadata={"help": "Such as cpu or cuda:1. By default the accelerator."})
    dtype: str = field(default=AUTO, metadata={"help": DTYPE_HELP})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model. Trine's own needs none."}
    )

    def __post_init__(self):
        check_device(self.device)
        check_choice("dtype", self.dtype, DTYPES)
        if bool(self.files) == (self.data_folder is not None):
            raise ValueError(f"files={self.files} and data_folder={self.data_folder!r}: give one of them.")
        if self.index is not None and self.store is not None:
            raise ValueError(f"index='{self.index}' and store='{self.store}': give one of them.")
        if not (self.bm25 or self.models or self.has_index):
            raise ValueError("bm25=False leaves no system to evaluate: give models or an index.")
        check_fusion(self.fusion, self.dense_weight, self.lexical_weight)
        check_choice("chinese", self.chinese, CHINESE)
        check_count("batch_size", self.batch_size)
        check_count("rerank_candidates", self.rerank_candidates)
        for weight in self.rerank_weight:
            check_rerank_weight(weight)
        for name in ("depth", "max_queries"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.save_runs and self.output_dir is None:
            raise ValueError("save_runs=True needs an output_dir.")

    @property
    def has_index(self) -> bool:
        """Whether an index is a column."""
        return self.index is not None or self.store is not None

    @property
    def rerank_names(self) -> dict[str, float]:
        """The names of the reranker's columns, each with its weight."""
        name = f"reranked by {Path(str(self.rerank)).name}"
        if len(self.rerank_weight) == 1:
            return {name: self.rerank_weight[0]}
        return {f"{name}, weight {weight:g}": weight for weight in self.rerank_weight}

    @property
    def index_name(self) -> str:
        """The name of its column."""
        return f"index {self.store_name if self.index is None else Path(self.index).name}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run `trine evaluate-retrieval` with these arguments, by default the process's."""
    argv = [*(sys.argv[1:] if argv is None else argv)]
    (arguments,) = parse_arguments([RetrievalArguments], argv, command="evaluate-retrieval", description=__doc__)
    try:
        measures = parse_metrics(arguments.metrics)
        if arguments.output_dir is not None:
            check_writable(Path(arguments.output_dir))
        judged = read(arguments)
        if arguments.save_runs:
            check_run_ids([*judged.queries, *judged.documents])
        runs = run_all(arguments, judged, arguments.depth or depth_of(measures))
        values = measure_runs(runs, judged.qrels, measures)
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"trine: {error}")
    metrics = {**count(judged), **summarize(values)}
    text = json.dumps(metrics, indent=2, ensure_ascii=False)
    print(text if arguments.json else describe(metrics))
    if arguments.output_dir is not None:
        folder = Path(arguments.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(arguments, metrics, argv), encoding="utf-8")
        for name, run in runs.items() if arguments.save_runs else ():
            write_run(folder / "runs" / f"{file_name(name)}.trec", name, run)
        if arguments.save_runs and judged.by_text:
            write_beir(folder / "data", judged)


def read(arguments: RetrievalArguments) -> Judged:
    """The queries, documents and judgments; errors are those of `read_pairs` and `read_beir`."""
    bad = BadRecords(arguments.skip_bad_records)
    if arguments.data_folder is not None:
        judged = read_beir(*find_beir_files(arguments.data_folder, arguments.split), bad)
    else:
        names = [arguments.anchor_field, arguments.positive_field, arguments.negative_field]
        judged = read_pairs(arguments.files, [name for name in names if name is not None], bad)
    return judged.first(arguments.max_queries)


def depth_of(measures: Sequence[Any]) -> int:
    """The largest number of documents that a measure looks at, at least 100."""
    return max(100, *(int(measure.params.get("cutoff", 0)) for measure in measures))


def run_all(arguments: RetrievalArguments, judged: Judged, depth: int) -> dict[str, Run]:
    """Runs each system, in the order of the columns."""
    code: Any = {name: getattr(arguments, name) for name in ("device", "trust_remote_code", "dtype")}
    reranker = load_reranker(arguments.rerank, **code) if arguments.rerank else None
    texts = {**judged.documents}
    if arguments.has_index:
        where: Any = {name: getattr(arguments, name) for name in ("index", "store", "store_name")}
        with opened_index(SearchArguments(**where, **code)) as index:
            index.batch_size = arguments.batch_size
            runs = run_models(arguments, judged, depth)
            runs |= index_run(arguments.index_name, index, judged, depth, texts)
    else:
        runs = run_models(arguments, judged, depth)
    if reranker is not None:
        last, (first_name, *_) = runs[[*runs][-1]], arguments.rerank_names
        ranked = ranked_again(reranker, first_name, last, judged.queries, texts, arguments.rerank_candidates)
        runs |= {
            name: mixed_run(last, ranked, weight, arguments.fusion) for name, weight in arguments.rerank_names.items()
        }
    return runs


def run_models(arguments: RetrievalArguments, judged: Judged, depth: int) -> dict[str, Run]:
    """Runs the systems that are made here: BM25, and each model."""
    where: Any = {name: getattr(arguments, name) for name in ("device", "trust_remote_code", "dtype")}
    load = partial(load_encoder, **where)
    encoders = {name: load(model) for model, name in call_them(arguments.models).items()}
    runs = {"BM25": bm25_run(judged, Words(arguments.chinese), depth)} if arguments.bm25 else {}
    for name, encoder in encoders.items():
        runs |= encoder_runs(
            name,
            encoder,
            judged,
            depth,
            weights=(arguments.dense_weight, arguments.lexical_weight) if arguments.hybrid else None,
            fusion=arguments.fusion,
            chinese=arguments.chinese,
            batch_size=arguments.batch_size,
        )
    return runs


def count(judged: Judged) -> dict[str, int]:
    """The sizes of the data."""
    return {
        "queries": len(judged.queries),
        "documents": len(judged.documents),
        "relevant": sum(judgment > 0 for found in judged.qrels.values() for judgment in found.values()),
        "queries_without_relevant": judged.left_out,
    }


def summarize(values: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """The mean over the queries for each system and measure, and of what it has above the first system's.

    Intervals are of 95 % by the bootstrap over queries, those of differences by the paired one.
    """
    first, *others = values
    above = {
        name: {measure: each - values[first][measure] for measure, each in values[name].items()} for name in others
    }
    summary: dict[str, Any] = {"first": first}
    for kind, table in (("scores", values), ("differences", above)):
        summary[kind] = {name: {m: float(each.mean()) for m, each in row.items()} for name, row in table.items()}
        ends = {name: {m: [*bootstrap_interval(each)] for m, each in row.items()} for name, row in table.items()}
        summary["intervals" if kind == "scores" else "difference_intervals"] = ends
    return summary


def describe(metrics: Mapping[str, Any]) -> str:
    """The scores as a table of Markdown, a system a column, and below them what each has above the first."""
    left_out = metrics["queries_without_relevant"]
    more = f" ({left_out:,} without a relevant document left out)" if left_out else ""
    size = f"{metrics['queries']:,} queries{more}, {metrics['documents']:,} documents; intervals of 95 %."
    systems, first = [*metrics["scores"]], metrics["first"]
    rows = [["", *systems]]
    for measure in metrics["scores"][first]:
        rows.append([measure])
        for name in systems:
            low, high = metrics["intervals"][name][measure]
            rows[-1].append(f"{metrics['scores'][name][measure]:.4f} ({low:.4f} to {high:.4f})")
    for measure in metrics["scores"][first] if len(systems) > 1 else ():
        rows.append([f"{measure} above {first}", ""])
        for name in systems[1:]:
            low, high = metrics["difference_intervals"][name][measure]
            rows[-1].append(f"{metrics['differences'][name][measure]:+.4f} ({low:+.4f} to {high:+.4f})")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join([size, "", *(f"| {line} |" for line in lines)])


def card(arguments: RetrievalArguments, metrics: Mapping[str, Any], argv: Sequence[str]) -> str:
    """The report as a page."""
    about = {name: name for name in metrics["scores"]}
    for model, name in call_them(arguments.models).items():
        both = f"{arguments.dense_weight:g} and {arguments.lexical_weight:g}, {arguments.fusion}"
        about |= {name: f"vectors of `{model}`, all compared", f"{name} + BM25": f"both, weighted by {both}"}
    about["BM25"] = f"words, Lucene's BM25, Chinese and Japanese by {arguments.chinese}"
    if arguments.has_index:
        about[arguments.index_name] = f"the index `{arguments.index or arguments.store_name}` with its own settings"
    if arguments.rerank is not None:
        last = [name for name in metrics["scores"] if name not in arguments.rerank_names][-1]
        what = f"the {arguments.rerank_candidates} best of {last}, ranked again by `{arguments.rerank}`"
        for name, weight in arguments.rerank_names.items():
            share = f", whose scores have the weight {weight:g} ({arguments.fusion})" if weight < 1 else ""
            about[name] = what + share
    lines = [f"* {name}: {about[name]}" for name in metrics["scores"]]
    parts = ["# Retrieval", describe(metrics), "\n".join(lines)]
    parts.append(
        "R is recall, RR the reciprocal rank, whose mean is MRR; by ir-measures. Intervals are of the bootstrap over "
        "queries; those of differences are paired."
    )
    return "\n\n".join([*parts, f"```console\ntrine evaluate-retrieval {shlex.join(argv)}\n```"]) + "\n"


def file_name(system: str) -> str:
    """A name of a system that a file can have."""
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in system)


if __name__ == "__main__":
    main()
